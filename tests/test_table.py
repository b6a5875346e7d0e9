"""The routing table: rows and their numbers, steps, and what is written of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchext import _table, _table_file, _table_in_force
from torchext._table import ANY, FAMILIES, NATIVE, ROUTES, STOCK, Family, Row

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


def test_a_row_that_is_put_counts_at_once(family):
    family.put(0, ((10, STOCK), (ANY, NATIVE)))
    assert family.stock_to == 10 and family.route(0, 11) == NATIVE and family.route(1, 11) == STOCK


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


def test_the_shipped_tables_name_what_the_families_have():
    paths = sorted(_table_in_force.SHIPPED.glob("*.json"))
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
