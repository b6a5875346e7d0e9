"""A row's ladder of sizes: which are measured, and what becomes of those between and above."""

import pytest
import torch

from torchext._table import ANY, FAMILIES, NATIVE, STOCK
from torchext.tuning import clock, search
from torchext.tuning.clock import Effort, Ratio


def ratio(low, value, high):
    return Ratio(value, low, high)


def climbed(monkeypatch, count, route_of, too_large=()):
    """The sizes that a climb over 1, 2, 4, ... measures, and the steps it finds."""
    measured = []
    family = FAMILIES["dropout", "cpu"]

    def measure(family, calls, *_):
        measured.append(calls)
        if calls in too_large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search.Cell(family, 0, calls, route_of(calls), 1e-9 * calls)

    monkeypatch.setattr(search, "measure", measure)
    ladder = [lambda size=1 << bits: size for bits in range(count)]
    cells = search.climb(family, family.when(0), ladder, clock.Clock("cpu"), Effort(1e-6, 6, 1.0, 3))
    return measured, search.steps_of(cells, STOCK)


def test_a_climb_halves_between_sizes_that_disagree(monkeypatch):
    measured, steps = climbed(monkeypatch, 13, lambda size: NATIVE if 32 <= size < 1024 else STOCK)
    assert measured == [1, 8, 64, 512, 4096, 1024, 16, 32]
    assert steps == ((31, STOCK), (512, NATIVE), (ANY, STOCK))
    assert climbed(monkeypatch, 13, lambda size: STOCK) == ([1, 8, 64, 512, 4096], ((ANY, STOCK),))


def test_a_climb_ends_where_a_call_takes_long_and_passes_over_what_does_not_fit(monkeypatch):
    measured, steps = climbed(monkeypatch, 31, lambda size: NATIVE)
    assert measured[-5:] == [1 << bits for bits in (18, 19, 20, 21, 22)]  # 3 ms are 3,000,000, a 32nd of it 94,000
    assert steps == ((ANY, NATIVE),)
    measured, steps = climbed(monkeypatch, 13, lambda size: NATIVE, too_large=(512, 4096))
    assert measured == [1, 8, 64, 512, 4096] and steps == ((ANY, NATIVE),)


@pytest.mark.parametrize("value, steps", [(1.02, ((ANY, NATIVE),)), (0.98, ((10, NATIVE), (ANY, STOCK)))])
def test_a_tie_above_a_win_is_the_winners_where_no_sample_was_slower(value, steps):
    family, sure, tie = FAMILIES["dropout", "cpu"], ratio(1.1, 1.2, 1.3), ratio(0.9, 1.02, 1.1)
    cells = [search.Cell(family, 0, 10, NATIVE, 0.0, [{NATIVE: sure}])]
    for size in (20, 30):
        cells.append(search.Cell(family, 0, size, STOCK, 0.0, [{NATIVE: tie}, {NATIVE: ratio(0.9, value, 1.1)}]))
    assert search.steps_of(cells, STOCK) == steps


def test_above_what_was_measured_the_table_goes_on_as_it_did():
    before = ((100, STOCK), (1000, NATIVE), (ANY, STOCK))
    assert search.with_larger(((10, STOCK), (ANY, NATIVE)), 500, before) == (
        (10, STOCK), (1000, NATIVE), (ANY, STOCK),
    )  # fmt: skip
    assert search.with_larger(((ANY, STOCK),), 50, before) == before
    assert search.with_larger(((ANY, STOCK),), 500, before) == ((ANY, STOCK),)  # it came to another route
    assert search.with_larger(((ANY, NATIVE),), 5000, before) == ((ANY, NATIVE),)


def test_a_climb_warns_of_a_call_that_fails_and_goes_on(monkeypatch):
    def fails(size):
        if size == 64:
            raise RuntimeError("no engine")
        return NATIVE

    with pytest.warns(UserWarning, match="tune: dropout .* could not be measured: no engine"):
        assert climbed(monkeypatch, 13, fails)[1] == ((ANY, NATIVE),)
