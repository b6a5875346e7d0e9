"""The evidence for a GPU's routes: stock, native and Triton side by side over the sizes of bench/gpu_sizes.py.

    python -m bench.gpu_rows OUT.json [--seconds S] [--op OP ...]

For each row and provider: microseconds on the device, from replays of a CUDA graph, and of an eager call, Python and
launches included; of forward alone (no gradient wanted) and of forward with backward. OUT.json is written after each
row; a second run resumes. `--warm I/N` runs each N-th row once with Triton and times nothing: several processes fill
Triton's cache together. On a CPU there are no graphs: it is the tests' dry run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import torchext
from torchext import _backend, _table

from . import environment, roof, stats
from .gpu_clock import TF32, call_us, device_us, roof_of, synchronize
from .gpu_sizes import cases
from .harness import OURS, STOCK, Case
from .results import write

FORWARD, TRAINING = "forward", "training"
LIBRARY = "library"
HAVE_LIBRARY = ("linear_relu", "conv2d_relu")  # ops
BACKENDS = (STOCK, "native", "triton", "library", "auto")
ROUNDS = 7
LONG = 2e-3  # seconds that one timed piece of work should take


@contextlib.contextmanager
def serving(provider: str) -> Iterator[None]:
    """Chooses the provider: a backend, or "library", the library's products with our epilogue at every size."""
    with contextlib.ExitStack() as stack:
        if provider == LIBRARY:
            for op in HAVE_LIBRARY:
                stack.enter_context(_table.FAMILIES[op, "cuda"].forced(_table.LIBRARY))
        stack.enter_context(torchext.backend("auto" if provider == LIBRARY else provider))
        yield


def function_of(case: Case, provider: str) -> Callable:
    return case.bind(case.providers[STOCK if provider == STOCK else OURS])


def phases(case: Case, provider: str, tensors: list[Tensor], dy: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed: forward without gradients, and forward with backward."""
    function, leaves = function_of(case, provider), [t for t in tensors if t.requires_grad]
    frozen = [t.detach() for t in tensors]

    def training() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*tensors), leaves, dy)

    return {FORWARD: lambda: function(*frozen), TRAINING: training}


def results(case: Case, provider: str, tensors: list[Tensor], dy: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    y = function_of(case, provider)(*tensors)
    return [y.detach(), *torch.autograd.grad(y, [t for t in tensors if t.requires_grad], dy)]


def distance(ours: list[Tensor], stock: list[Tensor]) -> float:
    """Largest relative norm of a difference: it shows a wrong kernel, the tests judge the rest."""
    norms = [((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)) for a, b in zip(ours, stock)]
    return round(float(torch.stack(norms).max()), 8)


def measure(case: Case, device: str, providers: list[str], top: roof.Roof) -> dict:
    with torch.device(device):
        tensors = case.inputs(device)
    floor, dtype = case.floor(), case.identity()["dtype"]
    if case.op.startswith("conv2d") and dtype == "float32" and torch.backends.cudnn.allow_tf32:
        dtype = TF32
    row = {**case.identity(), "shape": case.size.shape, "floor_us": {
        FORWARD: round(1e6 * top.seconds(floor.forward, dtype), 2),
        TRAINING: round(1e6 * top.seconds(floor.forward + floor.backward, dtype), 2),
    }}  # fmt: skip
    dy = torch.ones_like(function_of(case, STOCK)(*tensors).detach())
    runs, want = {}, results(case, STOCK, tensors, dy)
    for name in providers:
        if name == LIBRARY and (case.op not in HAVE_LIBRARY or device == "cpu"):
            continue
        try:
            with serving(name), torchext.record_routes() as routes:
                got = results(case, name, tensors, dy)
            row[name] = {"route": "+".join(sorted({route.backend for route in routes})) or STOCK}
            if case.op != "dropout":
                row[name]["error"] = distance(got, want)
            runs[name] = phases(case, name, tensors, dy)
            del got
        except Exception as error:
            row[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    del want
    for mode in (FORWARD, TRAINING):
        time_mode(row, {name: run[mode] for name, run in runs.items()}, mode)
    return row


def time_mode(row: dict, runs: dict[str, Callable], mode: str) -> None:
    """Adds each provider's two figures; the eager calls take turns, so that disturbances affect all alike."""
    repeats, calls = {}, {name: [] for name in runs}
    for name, run in runs.items():
        with serving(name):
            call_us(run, 3)
            repeats[name] = max(1, min(20, int(1e6 * LONG / call_us(run, 5))))
    for turn in range(ROUNDS):
        for name in stats.order(list(runs), turn):
            run = runs[name]
            with serving(name):
                calls[name].append(call_us(run, repeats[name]))
    for name, run in runs.items():
        row[name][f"{mode}_call"] = round(statistics.median(calls[name]), 2)
        try:
            with serving(name):
                row[name][f"{mode}_device"] = round(device_us(run, min(20, repeats[name])), 2)
        except Exception as error:
            row[name]["uncaptured"] = f"{type(error).__name__}: {str(error)[:300]}"


def save(known: dict, path: Path) -> None:
    write(path, {key: value for key, value in known.items() if key != "rows"}, "rows", known["rows"])


def line(row: dict) -> str:
    """The row on one line: device/call microseconds of forward with backward, how many times faster than stock."""
    name = " ".join([row["op"], row["size"], row["dtype"], "nhwc" if row["layout"] == "channels_last" else ""])
    parts = [f"{name:62s} floor {row['floor_us'][TRAINING]:8.1f}"]
    for provider in (p for p in BACKENDS if p in row):
        entry, stock = row[provider], row[STOCK]
        if "failed" in entry:
            parts.append(f"{provider} FAILED {entry['failed'][:70]}")
            continue
        pair = [entry.get(f"{TRAINING}_{kind}", float("nan")) for kind in ("device", "call")]
        ratios = [stock.get(f"{TRAINING}_{kind}", float("nan")) / t for kind, t in zip(("device", "call"), pair)]
        shown = "" if provider == STOCK else f" {ratios[0]:5.2f}x {ratios[1]:5.2f}x err {entry.get('error', 0):.0e}"
        parts.append(f"{provider} {pair[0]:8.1f} {pair[1]:6.0f}{shown}")
    return " | ".join(parts)


def warm(device: str, chosen: list[Case], share: str) -> None:
    """Runs each N-th row once with Triton; every autotune configuration is compiled, none is timed."""
    index, count = map(int, share.split("/"))
    for module in vars(_backend.triton()).values():
        for kernel in vars(module).values() if isinstance(module, type(json)) else ():
            if hasattr(kernel, "configs"):
                kernel.cache_results = False
                kernel._do_bench = lambda run, quantiles=None, **_: (run(), [1.0] * len(quantiles or [0]))[1]
    for case in chosen[index::count]:
        with torch.device(device):
            tensors = case.inputs(device)
        dy = torch.ones_like(function_of(case, STOCK)(*tensors).detach())
        try:
            with torchext.backend("triton"):
                results(case, "triton", tensors, dy)
        except Exception as error:
            print(f"{case}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="no row starts later than this")
    parser.add_argument("--op", nargs="*", help="only these")
    parser.add_argument("--every", type=int, default=1, help="only every N-th row: a dry run")
    parser.add_argument(
        "--largest", type=float, default=float("inf"), help="no row of more floating-point work or bytes"
    )
    parser.add_argument("--providers", nargs="*", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--warm", metavar="I/N")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True  # stock at its best
    start = time.monotonic()
    wanted = lambda case: not options.op or case.op in options.op
    size_of = lambda case: max(case.floor().forward.bytes, case.floor().forward.flops)
    chosen = [case for case in cases() if wanted(case) and size_of(case) <= options.largest][:: options.every]
    if options.warm:
        warm(device, chosen, options.warm)
        return 0
    known = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    top = roof_of(device)
    done = {(r["op"], r["size"], r["dtype"], r["layout"]) for r in known["rows"]}
    known |= {"environment": environment.describe(device), "roof": {"copy": top.copy, "gemm": top.gemm}}
    rates = ", ".join(f"{dtype} {rate / 1e12:.0f} TFLOP/s" for dtype, rate in top.gemm.items())
    print(f"copy {top.copy[-1][1] / 1e12:.2f} TB/s, {rates}", flush=True)
    for case in chosen:
        identity = case.identity()
        if tuple(identity[key] for key in ("op", "size", "dtype", "layout")) in done:
            continue
        if time.monotonic() - start > options.seconds:
            print("out of time", flush=True)
            return 1
        row = measure(case, device, options.providers, top)
        known["rows"].append(row)
        print(line(row), flush=True)
        save(known, options.out)
        if device == "cuda":
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
