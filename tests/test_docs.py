"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import torchext

LEFT_OUT = ("_C", "_simt", "__main__")
MODULES = [m.name for m in pkgutil.iter_modules(torchext.__path__) if not m.name.startswith(LEFT_OUT)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"torchext.{name}")
    names = {"torch": torch, "torchext": torchext}
    with torchext.backend("auto"):
        result = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
