"""Every op finds the row of the routing table that its arguments say, and no threshold stands elsewhere."""

import ast
from pathlib import Path

import pytest
import torch

import torchext
from torchext._table import FAMILIES, ROUTES
from torchext.nn import functional as F
from torchext.tuning import search

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def auto():
    with torchext.backend("auto"):
        yield


def placed(op, call):
    family = FAMILIES[op, "cpu"]
    row, size = search.placed(family, call)
    return family.when(row), size


def ones(*shape, dtype=torch.float32, grad=False):
    return torch.ones(shape, dtype=dtype, requires_grad=grad)


THREADS = {1: "one"}.get(torch.get_num_threads(), "several")
_LINEAR = {"relu": "no", "dtype": "float32", "gradient": "no", "columns": "to 16", "rows": "to 31"}
_CONV = {
    "dtype": "float32",
    "gradient": "no",
    "images": "to 7",
    "window": "to 24 taps",
    "channels": "to 12",
    "strided": "no",
}
_LOSS = {"dtype": "float32", "gradient": "yes", "form": "reduced rows", "classes": "to 15"}
_POOL = {"dtype": "float32", "gradient": "no", "layout": "contiguous", "windows": "apart", "indices": "no"}
labels = torch.zeros(4, dtype=torch.int64)
CALLS = {
    "linear": (lambda: F.linear(ones(4, 8), ones(16, 8)), "linear_relu", _LINEAR, 4 * 8 * 16),
    "linear of 17 columns": (
        lambda: F.linear(ones(4, 8), ones(17, 8)), "linear_relu", _LINEAR | {"columns": "more"}, 544,
    ),
    "linear of 31 rows": (lambda: F.linear(ones(31, 8), ones(3, 8)), "linear_relu", _LINEAR, 744),
    "linear of 32 rows": (lambda: F.linear(ones(4, 8, 8), ones(3, 8)), "linear_relu", _LINEAR | {"rows": "more"}, 768),
    "linear of a row": (lambda: F.linear(ones(8), ones(3, 8)), "linear_relu", _LINEAR | {"rows": "one"}, 24),
    "linear with gradient": (
        lambda: F.linear(ones(4, 8, grad=True), ones(3, 8)), "linear_relu", _LINEAR | {"gradient": "yes"}, 96,
    ),
    "linear_relu": (
        lambda: F.linear_relu(ones(4, 8, dtype=torch.bfloat16), ones(3, 8, dtype=torch.bfloat16)), "linear_relu",
        _LINEAR | {"relu": "yes", "dtype": "bfloat16"}, 96,
    ),
    "cross_entropy": (lambda: F.cross_entropy(ones(4, 10, grad=True), labels), "cross_entropy", _LOSS, 40),
    "cross_entropy of 16": (
        lambda: F.cross_entropy(ones(4, 16, grad=True), labels), "cross_entropy", _LOSS | {"classes": "to 512"}, 64,
    ),
    "cross_entropy of 513, no reduction": (
        lambda: F.cross_entropy(ones(4, 513), labels, reduction="none"), "cross_entropy",
        _LOSS | {"classes": "more", "form": "unreduced rows", "gradient": "no"}, 2052,
    ),
    "cross_entropy of planes": (
        lambda: F.cross_entropy(ones(4, 3, 2), torch.zeros(4, 2, dtype=torch.int64)), "cross_entropy",
        _LOSS | {"form": "planes", "gradient": "no"}, 24,
    ),
    "cross_entropy of probabilities": (
        lambda: F.cross_entropy(ones(4, 3), ones(4, 3)), "cross_entropy",
        _LOSS | {"form": "probabilities", "gradient": "no"}, 12,
    ),
    "dropout": (
        lambda: F.dropout(ones(9, grad=True)), "dropout", {"dtype": "float32", "gradient": "yes", "of": "elements"}, 9,
    ),
    "dropout2d": (
        lambda: F.dropout2d(ones(2, 3, 4, 4)), "dropout", {"dtype": "float32", "gradient": "no", "of": "channels"}, 6,
    ),
    "max_pool2d": (lambda: F.max_pool2d(ones(1, 64, 64, 64), 2), "max_pool2d", _POOL, 1 << 18),
    "max_pool2d overlapping, channels_last": (
        lambda: F.max_pool2d(ones(1, 64, 64, 64).to(memory_format=torch.channels_last), 3, (2, 3), 1), "max_pool2d",
        _POOL | {"layout": "channels_last", "windows": "overlapping"}, 1 << 18,
    ),
    "max_pool2d, its stride given": (lambda: F.max_pool2d(ones(1, 64, 64, 64), 2, 2), "max_pool2d", _POOL, 1 << 18),
    "max_pool2d with indices": (
        lambda: F.max_pool2d_with_indices(ones(1, 64, 64, 64), 2), "max_pool2d", _POOL | {"indices": "yes"}, 1 << 18,
    ),
    "conv2d": (lambda: F.conv2d(ones(2, 6, 8, 8), ones(7, 6, 3, 3)), "conv2d", _CONV, 64 * 6 * 7 * 9),
    "conv2d, a first layer": (
        lambda: F.conv2d(ones(2, 6, 8, 8), ones(7, 6, 3, 3, grad=True)), "conv2d", _CONV | {"gradient": "of weight"},
        64 * 6 * 7 * 9,
    ),
    "conv2d, a frozen layer": (
        lambda: F.conv2d(ones(2, 6, 8, 8, grad=True), ones(7, 6, 3, 3)), "conv2d", _CONV | {"gradient": "of input"},
        64 * 6 * 7 * 9,
    ),
    "conv2d of many": (
        lambda: F.conv2d(ones(8, 6, 8, 8), ones(7, 6, 5, 5)), "conv2d", _CONV | {"images": "to 63", "window": "more"},
        64 * (6 + 14),
    ),
    "conv2d of one, strided": (
        lambda: F.conv2d(ones(1, 4, 8, 8), ones(7, 4, 1, 1), stride=(2, 1)), "conv2d",
        _CONV | {"images": "one", "window": "one tap", "channels": "to 4", "strided": "yes"}, 32 * 4 * 7,
    ),
    "conv2d in groups": (
        lambda: F.conv2d(ones(64, 8, 8, 8), ones(8, 1, 3, 3), groups=8), "conv2d",
        _CONV | {"images": "more", "channels": "in groups"}, 64 * 24,
    ),
    "conv2d in blocks": (
        lambda: F.conv2d(ones(2, 16, 8, 8), ones(32, 16, 3, 3), stride=2), "conv2d",
        _CONV | {"channels": "in blocks of 16", "strided": "yes"}, 16 * 16 * 32 * 9,
    ),
    "conv2d by Winograd": (
        lambda: F.conv2d(ones(2, 64, 8, 8), ones(64, 64, 3, 3), padding=1), "conv2d",
        _CONV | {"channels": "Winograd's"}, 32,
    ),
    "conv2d by Winograd, few channels": (
        lambda: F.conv2d(ones(2, 16, 8, 8), ones(16, 16, 5, 5), padding="same"), "conv2d",
        _CONV | {"channels": "Winograd's to 48", "window": "more"}, 512,
    ),
    "batch_norm_relu_max_pool2d": (
        lambda: F.batch_norm_relu_max_pool2d(ones(2, 3, 4, 4), None, None, training=True, pool_kernel_size=2),
        "batch_norm_relu_max_pool2d", {"dtype": "float32", "layout": "contiguous"}, 96,
    ),
    "linear_cross_entropy": (
        lambda: F.linear_cross_entropy(ones(4, 8, grad=True), ones(10, 8), labels), "linear_cross_entropy",
        {"dtype": "float32", "gradient": "yes"}, 40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_each_call_finds_its_row(name):
    call, op, when, size = CALLS[name]
    assert placed(op, call) == ({**FAMILIES[op, "cpu"].when(0), **when, "threads": THREADS}, size)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_goes_the_way_of_its_row(name):
    call, op, *_ = CALLS[name]
    family = FAMILIES[op, "cpu"]
    row, _ = search.placed(family, call)
    for route in (family.routes[0], *search.candidates(family, row)):
        with family.forced(route), torchext.record_routes() as choices:
            call()
        (choice,) = (choice for choice in choices if choice.decided is not None and choice.decided[0] is family)
        stocks = route == family.routes[0]
        assert choice.backend == ("stock" if stocks else "native") and (choice.why != "") == stocks
        assert choice.row.startswith(ROUTES[route])


def test_a_pooled_convolution_finds_its_row():
    call = lambda: F.conv2d_relu_max_pool2d(ones(64, 1, 28, 28), ones(6, 1, 5, 5), pool_kernel_size=2)
    classes = {"images": "more", "window": "more", "channels": "one", "threads": THREADS}
    assert placed("conv2d_relu_max_pool2d", call) == ({**_CONV, **classes}, 784 * 13)


def test_every_choice_of_auto_is_told_with_its_row():
    (choice,) = torchext.explain(torchext.nn.Linear(8, 4), ones(2, 8)).choices
    assert "multiply-adds" in choice.row and "dtype float32" in choice.row and "here 64" in choice.row
    with torchext.backend("native"):
        (choice,) = torchext.explain(torchext.nn.Linear(8, 4), ones(2, 8)).choices
    assert choice.row == ""


# What is no measured speed: limits of kernels and of memory, and bytes.
_LIMITS = {
    "_table.py": {"ANY"},
    "_table_file.py": {"write"},  # a file's mode
    "_conv2d_plan.py": {"_MOST_SCRATCH", "_MOST_EDGE"},
    "_conv2d_relu_max_pool2d_plan.py": {"_SHARED", "_MOST_TAPS_OF_TRITON"},
    "_conv2d_route.py": {"is_winograds"},
    "_scripting.py": {"script_as"},  # a character's code
    "_cross_entropy_route.py": {"_CLASSES", "_GPU_CLASSES"},
    "_gpu.py": {"_SPARE"},
    "cross_entropy.py": {"_FEW"},
    "_linear_cross_entropy_plan.py": {"_CHUNK_BYTES"},
}


def literals(tree):
    """Names of the definitions that hold a shift of literals, or a number above 255."""
    found = {}
    for statement in tree.body:
        for node in ast.walk(statement):
            shift = isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift)
            shift = shift and isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)
            large = isinstance(node, ast.Constant) and type(node.value) is int and node.value > 255
            if shift or large:
                name = statement.targets[0].id if isinstance(statement, ast.Assign) else getattr(statement, "name", "?")
                found[name] = node.lineno
    return found


def test_no_measured_threshold_stands_outside_the_table():
    for path in sorted((ROOT / "torchext").glob("*.py")):
        found = literals(ast.parse(path.read_text()))
        assert set(found) == _LIMITS.get(path.name, set()), (path.name, found)
