"""What tuning makes of its measurements, and what it measures."""

import itertools
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tuning_cases import Timetable

import torchext
from torchext import _gpu_library
from torchext._table import ANY, DIRECT, FAMILIES, NATIVE, STOCK, WINOGRAD
from torchext.tuning import clock, machine, search
from torchext.tuning.clock import Effort, Ratio, interval, pooled, winner
from torchext.tuning.search import Cell, put, steps_of


@pytest.fixture(autouse=True)
def auto():
    with torchext.backend("auto"):
        yield


def cells(*rungs):
    return [Cell(FAMILIES["dropout", "cpu"], 0, size, route, 0.0) for size, route in rungs]


@pytest.mark.parametrize(
    "rungs, steps",
    [
        ([(4, STOCK), (16, STOCK)], ((ANY, STOCK),)),
        ([(4, NATIVE)], ((ANY, NATIVE),)),
        ([(4, STOCK), (16, NATIVE), (64, NATIVE)], ((15, STOCK), (ANY, NATIVE))),
        ([(64, STOCK), (4, NATIVE), (16, NATIVE)], ((16, NATIVE), (ANY, STOCK))),
        ([(4, DIRECT), (16, WINOGRAD)], ((4, DIRECT), (15, STOCK), (ANY, WINOGRAD))),
        ([(4, DIRECT), (5, WINOGRAD)], ((4, DIRECT), (ANY, WINOGRAD))),
        ([(4, STOCK), (16, NATIVE), (64, STOCK)], ((15, STOCK), (16, NATIVE), (ANY, STOCK))),
    ],
)
def test_a_route_goes_as_far_as_it_was_measured_to_win(rungs, steps):
    assert steps_of(cells(*rungs), STOCK) == steps


def walk(steps, size):
    return next(route for most, route in steps if size <= most)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from((STOCK, NATIVE, DIRECT))), max_size=5),
    st.integers(0, 60), st.integers(1, 30), st.sampled_from((STOCK, NATIVE, DIRECT)),
)  # fmt: skip
def test_a_route_is_put_between_two_sizes_and_nowhere_else(parts, low, width, route):
    before = (*itertools.accumulate(parts, lambda a, b: (a[0] + b[0], b[1])), (ANY, STOCK))
    after = put(before, low, low + width, route)
    assert [most for most, _ in after] == sorted({most for most, _ in after}) and after[-1][0] == ANY
    assert all(a[1] != b[1] for a, b in itertools.pairwise(after))
    for size in (*range(1, 200), 1 << 40):
        assert walk(after, size) == (route if low < size <= low + width else walk(before, size)), (before, after, size)


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=40))
def test_the_interval_holds_the_median_and_lies_between_two_values(ratios):
    found = interval(ratios)
    assert found.low <= found.value <= found.high and found.value == statistics.median(ratios)
    assert found.low in ratios and found.high in ratios


def test_the_interval_covers_the_median_of_what_was_drawn():
    """Of numbers whose median is 1: it holds 1 in 95 % of draws or more."""
    generator = torch.Generator().manual_seed(0)
    for rounds in (6, 9, 15, 31):
        draws = torch.empty(2000, rounds).exponential_(generator=generator).div_(torch.tensor(2.0).log()).tolist()
        held = sum(found.low <= 1 <= found.high for found in map(interval, draws))
        assert held >= 0.94 * 2000, rounds


def ratio(low, value, high):
    return Ratio(value, low, high)


def test_samples_are_pooled_by_their_variance():
    wide, narrow = ratio(0.8, 1.0, 1.25), ratio(1.19, 1.2, 1.21)
    both = pooled([wide, narrow])
    assert both.value == pytest.approx(1.2, abs=0.01) and 1.189 < both.low < both.value < both.high < 1.211
    alone = pooled([wide])
    assert (alone.value, alone.low, alone.high) == pytest.approx((1.0, 0.8, 1.25))


def test_ties_are_stocks_and_a_loss_in_one_sample_loses():
    clear, tie, loss = ratio(1.1, 1.2, 1.3), ratio(0.9, 1.1, 1.3), ratio(0.7, 0.8, 0.9)
    assert winner(STOCK, [{NATIVE: clear}]) == NATIVE
    assert winner(STOCK, [{NATIVE: tie}]) == winner(STOCK, [{NATIVE: loss}]) == winner(STOCK, []) == STOCK
    assert winner(STOCK, [{NATIVE: clear}, {NATIVE: loss}]) == STOCK
    small = ratio(1.0, 1.05, 1.1)
    assert winner(STOCK, [{NATIVE: small}]) == STOCK and winner(STOCK, [{NATIVE: small}] * 2) == NATIVE
    assert winner(STOCK, [{NATIVE: clear, DIRECT: ratio(1.3, 1.4, 1.5)}]) == DIRECT


THREADS = torch.get_num_threads()
JOBS = machine.jobs("cpu", THREADS, [], quick=False)


@pytest.mark.parametrize("samples", machine._SAMPLES, ids=lambda samples: samples.families[0].op)
def test_every_sample_is_of_the_row_it_is_made_for(samples):
    """And every row that is measured has a sample at two sizes or more."""
    for job in (job for job in JOBS if job.samples is samples):
        number, found = job.family.row(**job.when), []
        for size in job.sizes:
            if len(found) > 1:
                break
            for call in job.samples.calls(job.family, job.when, size):
                row, placed = search.placed(job.family, call)
                assert row == number, (job.when, job.family.when(row))
                found.append(placed)
        assert len(found) > 1, job.when


def test_samples_for_a_gpu_are_of_their_rows(gpu):
    """On tensors of the CPU that say they are a GPU's."""
    gpu.setattr(_gpu_library, "addmm_relu", None)
    gpu.setattr(_gpu_library, "_convolution_relu", None)
    found = machine.jobs("cuda", 1, [], quick=False)
    assert {job.family.op for job in found} == {op for op, device in FAMILIES if device == "cuda"} - {"sequential"}
    assert {job.when["captured"] for job in found} == {"yes", "no"} and {job.when["serving"] for job in found} == {
        "native"
    }
    for job in found:
        if job.family.op in ("linear_relu", "conv2d", "conv2d_relu", "linear_cross_entropy"):
            continue  # whose kernels on the CPU stand in for no GPU's at these shapes
        for size in job.sizes[:2]:
            for call in job.samples.calls(job.family, job.when, size):
                row, _ = search.placed(job.family, call)
                assert row == job.family.row(**job.when | {"captured": "no"}), job.when


def test_a_row_under_capture_is_timed_by_its_graph(timetable, monkeypatch):
    """The call runs once for each route, when it is captured; the clock then replays."""
    family, replays = FAMILIES["dropout", "cpu"], []

    class Graph:
        def __init__(self, call):
            call()
            self.route = family.steps[0][0][1]

        def replay(self):
            replays.append(self.route)

    class Replayed(clock.Clock):
        def seconds(self, run, repeats):
            run()
            return Timetable.taken[replays[-1]]

    monkeypatch.setattr(search, "graph_of", Graph)
    x = torch.ones(64)
    calls = []
    call = lambda: calls.append(torchext.nn.functional.dropout(x))
    eager = search.placed(family, call)[0]
    calls.clear()
    cell = search.measure(family, [call], Replayed("cpu"), Effort(1e-6, 6, 1.0), captured=True)
    assert cell.row == eager + 1 and cell.route == NATIVE and cell.samples[0][NATIVE].value == 2
    assert len(calls) == 3  # to find the row, and for each route to capture it


def test_a_row_is_filled_from_its_ladder(timetable):
    job = next(job for job in JOBS if job.family.op == "dropout")
    machine._fill(job, Effort(1e-6, 6, 1.0), verbose=False)
    assert job.family.steps[job.family.row(**job.when)] == ((ANY, NATIVE),)


def test_a_failed_capture_ends_a_tune_which_keeps_what_it_measured(timetable, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("capture invalidated")

    family = FAMILIES["dropout", "cuda"]
    monkeypatch.setattr(search, "measure", fails)
    monkeypatch.setattr(machine, "_fill", lambda job, *_: search.climb(family, captured, [list], None, clock.FULL))
    captured = next(when for when in family.combinations() if when["captured"] == "yes")
    assert machine.measure("cpu", ["dropout"], True, 60, [THREADS], verbose=False) == set()
    assert "capture invalidated; what was measured is kept" in capsys.readouterr().err


def test_an_interrupted_tune_keeps_what_it_measured(timetable, monkeypatch, capsys):
    fill, filled = machine._fill, []

    def interrupted(job, *_):
        if filled:
            raise KeyboardInterrupt
        filled.append(job)
        return fill(job, Effort(1e-6, 6, 1.0), verbose=False)

    monkeypatch.setattr(machine, "_fill", interrupted)
    rows = machine.measure("cpu", ["dropout"], True, 60, [THREADS], verbose=False)
    assert rows == {(filled[0].family, filled[0].family.row(**filled[0].when))}
    assert "interrupted; what was measured is kept" in capsys.readouterr().err


def test_a_capture_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="a CUDA graph is being captured"):
        clock.Clock("cuda")
