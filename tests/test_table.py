"""The routing table: rows and their numbers, steps, files; every op finds the row that its arguments say."""

import ast
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchext
from torchext import _table, _table_file
from torchext._table import ANY, FAMILIES, NATIVE, ROUTES, STOCK, Family, Row
from torchext.nn import functional as F
from torchext.tuning import search

ROOT = Path(__file__).parent.parent
ALL = sorted(FAMILIES)


@pytest.fixture
def family():
    """One that nobody else has."""
    made = Family("test", "cpu", STOCK, (STOCK, NATIVE), "items", color=("red", "green"), sides=("few", "some", "many"))
    yield made
    del FAMILIES["test", "cpu"]


@pytest.mark.parametrize("key", ALL, ids=" ".join)
def test_rows_are_numbered_in_the_order_of_their_classes(key):
    family = FAMILIES[key]
    whens = list(family.combinations())
    assert len(whens) == family.count
    for number in range(0, family.count, max(1, family.count // 97)):
        assert family.when(number) == whens[number] and family.row(**whens[number]) == number


def test_steps_are_walked_to_the_size(family):
    family.fill(Row("test", "cpu", {"color": ["red"]}, "items", ((10, "stock"), (20, "native"), (ANY, "stock"))))
    red, green = family.row(color="red", sides="some"), family.row(color="green", sides="some")
    assert [family.route(red, size) for size in (0, 10, 11, 20, 21)] == [STOCK, STOCK, NATIVE, NATIVE, STOCK]
    assert family.route(green, 15) == STOCK
    assert "stock to 10 items, then native to 20 items, then stock" in family.describe(red, 15)
    assert "color red, sides some" in family.describe(red, 15) and "here 15" in family.describe(red, 15)


def test_the_size_up_to_which_all_rows_are_stocks_is_kept(family):
    family.settle()
    assert family.stock_to == ANY
    family.fill(Row("test", "cpu", {}, "items", ((10, "stock"), (ANY, "native"))))
    family.fill(Row("test", "cpu", {"sides": ["many"]}, "items", ((7, "stock"), (ANY, "native"))))
    family.settle()
    assert family.stock_to == 7
    with family.forced(NATIVE):
        assert family.route(0, 1) == NATIVE and family.stock_to < 0
    assert family.route(0, 1) == STOCK and family.stock_to == 7


@pytest.mark.parametrize(
    "when, steps, told",
    [
        ({"colour": ["red"]}, ((ANY, "native"),), "unknown class 'colour'"),
        ({"color": ["blue"]}, ((ANY, "native"),), "color is ['blue'], expected among ['red', 'green']"),
        ({}, ((ANY, "direct"),), "route 'direct', expected among ['stock', 'native']"),
        ({}, ((10, "native"),), "one for all others at the end"),
        ({}, ((10, "native"), (10, "stock"), (ANY, "native")), "expected rising sizes"),
        ({}, (), "one for all others at the end"),
    ],
)
def test_a_row_that_the_family_cannot_have_is_refused(family, when, steps, told):
    with pytest.raises(ValueError) as caught:
        family.fill(Row("test", "cpu", when, "items", steps))
    assert told in str(caught.value)


@given(st.data())
def test_what_is_written_is_read_again(data):
    """Rows joined where they fill a class are the same rows."""
    family = Family("test", "cpu", STOCK, (STOCK, NATIVE), "items", a=("0", "1"), b=("0", "1", "2"), c=("0", "1"))
    try:
        choices = [((ANY, NATIVE),), ((5, STOCK), (ANY, NATIVE)), ((ANY, STOCK),)]
        numbers = data.draw(st.sets(st.integers(0, family.count - 1)))
        for number in numbers:
            family.steps[number] = data.draw(st.sampled_from(choices))
        before = list(family.steps)
        table = _table_file.Table("cpu", "kind", _table_file.rows_of(family, sorted(numbers)), {"torch": "1"})
        found = json.loads(_table_file.text(table))
        family.clear()
        touched = set()
        for row in found["rows"]:
            named = _table_file._row("cpu", row)
            assert not touched & set(family.numbers(named))
            touched |= set(family.numbers(named))
            family.fill(named)
        assert touched == numbers and list(family.steps) == before
    finally:
        del FAMILIES["test", "cpu"]


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
_LINEAR = {"relu": "no", "dtype": "float32", "gradient": "no", "columns": "to 16", "rows": "several"}
_CONV = {
    "dtype": "float32",
    "gradient": "no",
    "images": "to 7",
    "window": "to 24 taps",
    "channels": "others",
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
    "max_pool2d with indices": (
        lambda: F.max_pool2d_with_indices(ones(1, 64, 64, 64), 2), "max_pool2d", _POOL | {"indices": "yes"}, 1 << 18,
    ),
    "conv2d": (lambda: F.conv2d(ones(2, 6, 8, 8), ones(7, 6, 3, 3)), "conv2d", _CONV, 64 * 6 * 7 * 9),
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


def test_a_pooled_convolution_finds_its_row():
    call = lambda: F.conv2d_relu_max_pool2d(ones(64, 1, 28, 28), ones(6, 1, 5, 5), pool_kernel_size=2)
    classes = {"images": "more", "window": "more", "channels": "to 4", "threads": THREADS}
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
    "_conv2d_plan.py": {"_MOST_SCRATCH", "_MOST_EDGE"},
    "_conv2d_relu_max_pool2d_plan.py": {"_SHARED", "_MOST_TAPS_OF_TRITON"},
    "_conv2d_route.py": {"is_winograds"},
    "_scripting.py": {"script_as"},  # a character's code
    "_cross_entropy_route.py": {"_CLASSES", "_GPU_CLASSES"},
    "_gpu.py": {"_SPARE"},
    "cross_entropy.py": {"_FEW"},
    "linear_cross_entropy.py": {"_CHUNK_BYTES"},
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


def test_the_shipped_tables_name_what_the_families_have():
    paths = sorted(_table_file.SHIPPED.glob("*.json"))
    assert paths
    for path in paths:
        table = _table_file.read(path)
        assert path.stem == table.kind and table.rows, path
        for row in table.rows:
            family = FAMILIES[row.op, row.device]
            family.numbers(row)
            family.steps_named(row)
            assert all(route in ROUTES for _, route in row.steps)


def test_routes_are_numbered_by_name():
    assert all(getattr(_table, name.upper()) == index for index, name in enumerate(ROUTES))
