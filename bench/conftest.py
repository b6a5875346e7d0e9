"""`pytest bench/`: options, the roof, a line of progress per row, and what the JSON holds besides times."""

from __future__ import annotations

import time

import pytest
import torch

from . import environment, measure, ops, roof, steps, table
from .clock import WARM_ROUNDS

DTYPES = torch.float32, torch.bfloat16


def pytest_addoption(parser):
    group = parser.getgroup("torchext")
    group.addoption("--threads", type=int, default=1, help="threads of torch's pool, for every provider")
    group.addoption("--seconds", type=float, default=1.0, help="measuring time per row, without what compiles")
    group.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the tensors are")
    group.addoption("--long", action="store_true", help="on a CPU also the sizes meant for a GPU: minutes each")
    group.addoption(
        "--compile",
        default="typical",
        choices=("none", "typical", "all"),
        help="rows that torch.compile runs in: 2 to 20 s of compilation each",
    )


def pytest_configure(config):
    torch.set_num_threads(config.getoption("threads"))
    if config.getoption("device") == "cuda":
        torch.backends.cudnn.benchmark = True  # stock at its best
    config.bench_rows, config.bench_start = 0, time.monotonic()


def pytest_collection_modifyitems(config, items):
    """Sizes for a GPU are not for the CPU; and the networks, which take longest to compile, come last."""
    device, long = config.getoption("device"), config.getoption("long")
    wanted = [item for item in items if long or _device(item) in ("any", device)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = sorted(wanted, key=lambda item: "bench_networks" in item.nodeid)
    config.bench_rows_wanted = len(items)


def _device(item) -> str:
    return item.callspec.params["case"].device if hasattr(item, "callspec") else "any"


@pytest.fixture(scope="session")
def settings(request):
    """What the command line chose, and the roof measured under it."""
    option = request.config.getoption
    device, seconds = option("device"), option("seconds")
    request.config.bench_roof = roof.measure(device, DTYPES, min(seconds, 1.0) / 4)
    return measure.Settings(device, seconds, option("compile"), request.config.bench_roof)


@pytest.fixture
def measure_op(request, benchmark, settings):
    return lambda case: _record(request, benchmark, ops.row(case, settings, _runner(benchmark)))


@pytest.fixture
def measure_network(request, benchmark, settings):
    return lambda case: _record(request, benchmark, steps.row(case, settings, _runner(benchmark)))


def _runner(benchmark):
    """pytest-benchmark runs the rounds; a round holds every contender's turn, so its own time is not used."""

    def run(race):
        benchmark.pedantic(race.round, rounds=race.rounds, warmup_rounds=WARM_ROUNDS)

    return run


def _record(request, benchmark, row):
    benchmark.extra_info.update(row)
    config = request.config
    config.bench_rows += 1
    spent = time.monotonic() - config.bench_start
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    at = f"[{config.bench_rows:3d}/{config.bench_rows_wanted} {spent // 60:2.0f}:{spent % 60:02.0f}]"
    with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line(f"{at} {table.progress(row)}")
    measure.refuse_wrong(row)


def pytest_report_teststatus(report):
    """The line of each row replaces pytest's dot."""
    return ("passed", "", "") if report.passed and report.when == "call" else None


def pytest_benchmark_generate_machine_info(config):
    return environment.describe(config.getoption("device"))


def pytest_benchmark_generate_commit_info(config):
    return environment.commit()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Our rows are in extra_info; the rounds' own times, most of the file, are removed."""
    output_json["roof"] = {"copy": config.bench_roof.copy, "gemm": config.bench_roof.gemm}
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
        entry["params"] = None  # of types of ours; "param" is their name
