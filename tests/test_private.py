"""What is private to torch is named in one module; a torch that lacks any of it serves all the same."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchext import _private, compile

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "torchext").glob("[!k]*/**/*.py"), *ROOT.glob("torchext/*.py"), *ROOT.glob("kernels/*.py")])
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
PLACE = "torchext/_private.py"
# A level that changes, read where it is asked on every call's path.
ALLOWED = {("torchext/_observers.py", "forward_ad._current_level")}
PYTHONS = {"_fields", "_getframe"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def named(tree):
    """What a file itself gives a private name to: functions, classes, variables, attributes, modules of ours."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


OURS = {*itertools.chain(*map(named, TREES.values()))}


def torchs(tree):
    """The names under which a file has torch, or what it took from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname or a.name).partition(".")[0] for a in node.names if a.name.startswith("torch"))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("torch"):
            yield from (a.asname or a.name for a in node.names)


def private_names(tree):
    """What a file names that is private to torch."""
    roots = {name for name in torchs(tree) if name != "torchext"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in PYTHONS:
            text = ast.unparse(node)
            of_torch = text.partition(".")[0] in roots and not text.startswith("torch.ops.torchext")
            if of_torch or node.attr not in OURS:
                yield text
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("torch"):
            names = [*node.module.split("."), *(a.name for a in node.names)]
            yield from (f"{node.module}: {name}" for name in names if is_private(name))
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if any(map(is_private, a.name.split("."))))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("getattr", "hasattr", "attrgetter")):
            given = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from (name for name in given if is_private(name) and name not in OURS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("torch._"):
            yield node.value


@pytest.mark.parametrize("file", [file for file in TREES if file != PLACE])
def test_no_other_file_names_what_is_private_to_torch(file):
    assert {name for name in private_names(TREES[file]) if (file, name) not in ALLOWED} == set()


def test_names_that_are_private_to_torch_are_seen():
    text = """
import torch
import torch._dynamo
from torch import nn
from torch.nn import _reduction
torch._C._is_tracing()
nn.Conv2d._conv_forward
module._forward_hooks
getattr(module, "_buffers")
"torch._dynamo.backends"
"""
    assert len(set(private_names(ast.parse(text)))) == 8


def looked_up(tree):
    for node in ast.walk(tree):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if called in ("_find", "_ask") and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


NAMES = sorted(looked_up(TREES[PLACE]))


@pytest.mark.parametrize("names", [NAMES[i::4] for i in range(4)], ids=" ".join)
def test_a_torch_that_lacks_one_is_served(names):
    command = [
        sys.executable,
        "-W",
        "ignore",
        Path(__file__).parent / "lacking.py",
        "torch:version.git_version",
        *names,
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert told.stdout == "served\n", told.stdout + told.stderr


def test_a_layer_that_does_not_tell_of_its_hooks_is_watched():
    layer = nn.ReLU()
    assert not _private.is_hooked(layer, "nobody")
    del layer._backward_hooks
    assert _private.is_hooked(layer, "nobody")


def test_a_layer_without_what_it_pads_by_is_padded_alike():
    options = {"valid": 1, "same": (2, 3), (1, 2): 1}
    for padding, dilation in options.items():
        layer = nn.Conv2d(1, 1, (3, 4), padding=padding, dilation=dilation, padding_mode="circular")
        kept = layer._reversed_padding_repeated_twice
        assert list(_private.padding_around(layer)) == list(kept)
        del layer._reversed_padding_repeated_twice
        assert list(_private.padding_around(layer)) == list(kept)
        x = torch.randn(1, 1, 9, 9)
        layer._reversed_padding_repeated_twice = kept
        assert torch.equal(_private._conv_forward(layer, x, layer.weight, layer.bias), layer(x))


def test_what_no_object_has_is_served_otherwise():
    bare = SimpleNamespace()
    assert _private.buffers_of(bare) == {} and _private.argument_names(bare) is None
    _private.check_input_dim(bare, torch.ones(1, 1, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        _private.check_input_dim(bare, torch.ones(1, 1))


def test_where_dynamo_tells_nothing_any_mode_goes(monkeypatch):
    monkeypatch.setattr(_private, "_find", lambda name, otherwise=None: otherwise)
    assert _private.dynamo_backend() == "" and _private.functional_mode() is None
    compile._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="ignores mode"):
        compile._ignore("of tomorrow", None)
