"""import torchext.nn.<anything>: the submodules of torch.nn are torch's own in either import order."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchext.nn

FOLDER = Path(torch.nn.__path__[0])
PATHS = [path.relative_to(FOLDER).with_suffix("") for path in sorted(FOLDER.rglob("*.py"))]
NAMES = {".".join(p.parts).removesuffix("__init__").rstrip(".") for p in PATHS} - {"", "functional"}

# Ours first: a module that torch has not loaded yet might be created under our name.
IMPORTS = """
import importlib, json, sys, warnings
import torchext
warnings.simplefilter("ignore")

def found(name):
    loaded = sys.modules.get(f"torch.nn.{name}")
    spec = loaded and loaded.__spec__
    try:
        ours = importlib.import_module(f"torchext.nn.{name}")
    except Exception as error:
        try:
            importlib.import_module(f"torch.nn.{name}")
        except type(error):
            return "stock cannot import it either"
        return repr(error)
    stock = importlib.import_module(f"torch.nn.{name}")
    if ours is not stock or (loaded and (ours is not loaded or ours.__spec__ is not spec)):
        return "another object"
    if (ours.__name__, ours.__spec__.name, ours.__spec__.loader) != (f"torch.nn.{name}",) * 2 + (ours.__loader__,):
        return f"it calls itself {ours.__name__}, {ours.__spec__}"
    reached = torchext.nn
    for part in name.split("."):
        reached = getattr(reached, part)
    return "torch's" if reached is stock else "not reached by attributes"

before = [name for name in sys.argv[1:] if f"torch.nn.{name}" in sys.modules]
print(json.dumps([before, {name: found(name) for name in sys.argv[1:]}]))
"""


@pytest.fixture(scope="module")
def imported():
    run = subprocess.run([sys.executable, "-c", IMPORTS, *sorted(NAMES)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_submodule_is_torchs_own(imported, name):
    _, found = imported
    if found[name].startswith("stock"):
        pytest.skip(found[name])
    assert found[name] == "torch's"


def test_some_were_loaded_before_and_some_were_not(imported):
    before, _ = imported
    assert "utils.prune" not in before and "attention.flex_attention" not in before and "modules.conv" in before


def test_every_form_of_import_reaches_it():
    import torchext.nn.utils.prune
    import torchext.nn.utils.prune as prune
    from torchext.nn.utils import parametrize
    from torchext.nn.utils.prune import l1_unstructured

    assert prune is torch.nn.utils.prune is torchext.nn.utils.prune
    assert parametrize is torch.nn.utils.parametrize and l1_unstructured is prune.l1_unstructured
    assert importlib.import_module(".modules.conv", "torchext.nn") is torch.nn.modules.conv
    assert importlib.util.find_spec("torchext.nn.utils.rnn").origin == torch.nn.utils.rnn.__file__


def test_functional_is_ours():
    import torchext.nn.functional as F
    from torchext.nn import functional

    assert F is functional is torchext.nn.functional is sys.modules["torchext.nn.functional"]
    assert F is not torch.nn.functional and F.__name__ == F.__spec__.name == "torchext.nn.functional"


@pytest.mark.parametrize("name", ["nonsense", "utils.nonsense", "init.nonsense", "functional.nonsense"])
def test_a_missing_submodule_is_reported_by_the_requested_name(name):
    with pytest.raises(ModuleNotFoundError, match=rf"No module named 'torchext\.nn\.{name}'") as caught:
        importlib.import_module(f"torchext.nn.{name}")
    assert caught.value.name == f"torchext.nn.{name}"


def test_an_error_inside_a_module_of_torchs_is_raised_unchanged(monkeypatch, tmp_path):
    """A module that lacks one of its dependencies is not itself missing."""
    (tmp_path / "broken.py").write_text("import a_dependency\n")
    monkeypatch.setattr(torch.nn.utils, "__path__", [*torch.nn.utils.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_dependency"):
        importlib.import_module("torchext.nn.utils.broken")
    assert "torchext.nn.utils.broken" not in sys.modules
