"""The benchmark is right: its statistics, the order of providers, the roof, wrong results, regressions, README."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import compare, environment, exact, memory, ops, results, stats, table
from bench.__main__ import main
from bench.clock import WARM_ROUNDS, Clock, Contender, Race
from bench.harness import Case, Cost, Size, leaf
from bench.measure import Settings, refuse_wrong
from bench.roof import Roof, Work
from torchext import __main__ as torchext_main

ROOF = Roof(((1000, 1e9), (100_000, 4e9)), {"float32": 1e9})
SETTINGS = Settings("cpu", 0.02, "none", ROOF)


def run_all(race):
    for _ in range(race.rounds + WARM_ROUNDS):
        race.round()


def test_every_provider_has_every_position_equally_often():
    names = ["a", "b", "c"]
    orders = [stats.order(names, turn) for turn in range(6)]
    assert all(sorted(order) == names for order in orders)
    for place in range(3):
        assert sorted(order[place] for order in orders) == ["a", "a", "b", "b", "c", "c"]
    followers = {pair for order in orders for pair in itertools.pairwise(order)}
    assert len(followers) == 6  # and every provider follows every other


def test_interval_of_the_median():
    assert stats.interval([2.0] * 20) == (2.0, 2.0)
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).add(10).tolist()
    low, high = stats.interval(values)
    assert low < sorted(values)[100] < high
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / 200**0.5, rel=0.4)  # the normal median's standard error
    assert stats.interval(values) == (low, high)


def test_interval_covers_the_true_median_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    inside = 0
    for _ in range(200):
        low, high = stats.interval(torch.randn(25, generator=generator).tolist())
        inside += low <= 0 <= high
    assert 180 <= inside <= 200


def test_drift_cancels_in_the_ratio():
    stock = [1.0 + i for i in range(20)]
    assert stats.ratio(stock, [t / 2 for t in stock]) == stats.Ratio(2.0, 2.0, 2.0)


def test_geometric_mean():
    assert stats.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_roof_is_the_slower_of_bytes_and_operations():
    assert ROOF.bandwidth(1000) == 1e9 and ROOF.bandwidth(10_000) == pytest.approx(2.5e9)
    assert ROOF.bandwidth(10) == 1e9 and ROOF.bandwidth(1e9) == 4e9
    assert ROOF.seconds(Work(100_000), "float32") == pytest.approx(25e-6)
    assert ROOF.seconds(Work(100_000, 1e6), "float32") == pytest.approx(1e-3)
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


def test_highest_level_of_allocations():
    assert memory.highest([4, 8, -4, 2, -8, -2]) == 12


def test_memory_sees_what_backward_keeps_and_what_is_alive():
    x = torch.randn(1000, requires_grad=True)
    assert memory.saved(lambda x: x.exp().relu(), [x], "cpu") == 4000  # exp's result; relu's is the result
    assert memory.saved(lambda x: x.view(10, 100).relu_().view(-1), [x.detach()], "cpu") == 0
    kept = []
    assert (
        memory.saved(lambda x: kept.append(x.exp()) or x.relu(), [x.detach()], "cpu") == 4000
    )  # which autograd does not see
    assert memory.peak(lambda: torch.empty(1000).clone(), "cpu") == 8000


class Watch(Clock):
    """A clock set by hand."""

    now = 0.0

    def mark(self):
        return self.now

    def spends(self, seconds):
        """A phase that takes so long, and 1 % longer at each run: the machine slows down."""

        def phase(_):
            self.now += seconds * self.drift
            self.drift *= 1.01

        return phase

    drift = 1.0


def test_a_planted_slow_provider_is_reported_slower_whatever_the_drift():
    watch = Watch("cpu")
    contenders = {name: Contender({"step": watch.spends(s)}) for name, s in (("stock", 1.0), ("slow", 1.1))}
    race = Race(contenders, watch, 100.0)
    run_all(race)
    times = {name: race.times(name)["step"] for name in contenders}
    ratio = stats.ratio(times["stock"], times["slow"])
    assert len(times["slow"]) == race.rounds > 20
    assert times["slow"][-1] > 1.4 * times["slow"][0]
    assert ratio.high < 1 and ratio.value == pytest.approx(1 / 1.1, abs=0.03)


def test_phases_are_timed_apart_and_together():
    watch = Watch("cpu")
    contender = Contender({"forward": watch.spends(1.0), "backward": watch.spends(2.0)})
    race = Race({"stock": contender}, watch, 0.0)
    run_all(race)
    times = race.times("stock")
    for forward, backward, both in zip(*times.values()):
        assert both == pytest.approx(forward + backward) and 1.9 < backward / forward < 2.1


def relu_case(ours):
    size = Size((64, 10))
    cost = lambda s, m, n: Cost(Work(2 * s * m * n), Work(3 * s * m * n))
    return Case("relu", size, "(64,10)", lambda m, n: [leaf(m, n)], {"stock": torch.relu, "torchext": ours}, cost, None)


class ForgetsTheMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x.relu() * 1.0001, lambda x: x, lambda x: x.relu() * float("nan"), ForgetsTheMask.apply],
    ids=["a value off by 1e-4", "no ReLU", "NaN", "a gradient without its mask"],
)
def test_a_wrong_kernel_is_refused(wrong):
    with pytest.raises(exact.WrongResult, match=r"relu \(64,10\): torchext"):
        refuse_wrong(ops.row(relu_case(wrong), SETTINGS, run_all))


def test_a_row_holds_what_the_tables_need():
    row = ops.row(relu_case(torch.relu), SETTINGS, run_all)
    refuse_wrong(row)
    assert row["floor"]["forward+backward"] == {"bytes": 5 * 4 * 640, "flops": 0}
    ours = row["providers"]["torchext"]
    assert set(ours["modes"]) == {"forward", "backward", "forward+backward"}
    assert ours["error"] == ours["stock_error"] == 0
    assert "(64,10)" in table.progress(row)


def test_dropout_that_drops_everything_is_wrong():
    from bench import bench_dropout

    x = torch.randn(65536, dtype=torch.float64)
    assert not torch.equal(bench_dropout.exact(torch.zeros_like(x), x, 0.5), torch.zeros_like(x))
    y = torch.nn.functional.dropout(x, 0.5)
    assert torch.equal(bench_dropout.exact(y, x, 0.5), y)


def test_bench_files_declare_tests_and_time_nothing_themselves():
    for path in sorted((results.ROOT / "bench").glob("bench_*.py")):
        assert "\ntest_" in path.read_text() and "perf_counter" not in path.read_text()


def a_run(name, ratio, spread=0.02):
    mode = {"us": 10.0, "ratio": ratio, "low": ratio - spread, "high": ratio + spread, "roof": 0.5}
    stock = {"us": 10.0 * ratio, "ratio": 1.0, "low": 1.0, "high": 1.0, "roof": 0.1}
    both = {"stock": {"modes": {"step": stock}}, "torchext": {"modes": {"step": mode}}}
    row = {"op": "LeNet", "size": "batch 64", "dtype": "float32", "layout": "contiguous", "kind": "network"}
    return results.Run(name, {"threads": "1"}, {}, [{**row, "typical": True, "providers": both}])


def test_a_regression_is_seen_and_noise_is_not():
    assert compare.report(a_run("a", 2.0), a_run("b", 1.5))[1]
    assert not compare.report(a_run("a", 2.0), a_run("b", 2.5))[1]
    assert not compare.report(a_run("a", 2.0), a_run("b", 1.95))[1]
    assert not compare.report(a_run("a", 2.0, spread=0.5), a_run("b", 1.5))[1]


def test_compare_exits_with_1_on_a_regression(tmp_path, capsys):
    reference = str(results.RESULTS / "cpu-1-thread.json")
    data = json.loads(Path(reference).read_text())
    for mode in data["benchmarks"][0]["extra_info"]["providers"]["torchext"]["modes"].values():
        for key in ("ratio", "low", "high"):
            mode[key] *= 0.001  # below any interval, however noisy the committed run
    slow = tmp_path / "slow.json"
    slow.write_text(json.dumps(data))
    assert main(["compare", reference, reference]) == 0
    assert main(["compare", reference, str(slow)]) == 1
    assert "slower than before: 3" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such run"):
        main(["compare", reference, str(tmp_path / "none.json")])


def test_readme_holds_the_table_of_the_committed_runs():
    text = table.README.read_text()
    assert text.split(table.BEGIN)[1].split(table.END)[0].strip() == table.readme_table()
    for name in table.REFERENCES:
        assert (results.RESULTS / f"{name}.md").read_text() == table.long(
            results.load(results.RESULTS / f"{name}.json")
        )


def test_a_run_from_end_to_end(tmp_path):
    chosen = ["--threads=1", "--seconds=0.002", "--compile=none", "--device=cpu", f"--out={tmp_path}"]
    command = [sys.executable, "-m", "bench", "dropout", *chosen]
    run = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "dropout (65536) p=0.5" in run.stdout
    found = results.load(tmp_path / "cpu-1-thread.json")
    assert found.environment["threads"] == "1" and len(found.rows) == 8
    results.save(tmp_path / "cpu-1-thread.json", tmp_path / "kept.json")
    assert results.load(tmp_path / "kept.json").rows == found.rows
    assert main(["report", str(tmp_path / "kept.json"), f"--out={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 4 and "http" not in page


def test_without_git_the_commit_is_omitted(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() == {} and environment.describe("cpu")["device"]


def test_the_packages_command_line_measures_too(capfd):
    assert torchext_main.bench(["--help"]) == 0
    assert "python -m bench compare A B" in capfd.readouterr().out
