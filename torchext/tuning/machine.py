"""python -m torchext tune: measures the routing table of this machine, and keeps it for programs that start later."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import _device_kind, _op, _table_file, _table_in_force
from .._table import THREADS, Family, Steps, describe_steps
from . import (
    batch_norm_relu_max_pool2d,
    conv2d,
    cross_entropy,
    dropout,
    linear_cross_entropy,
    linear_relu,
    max_pool2d,
    search,
)
from .clock import QUICK, Clock, Effort, collected, fastest_library, full
from .samples import Calls, Samples, When

# What others are made of comes first: a pooled convolution's parts are routed before it is.
_OPS = linear_relu, cross_entropy, dropout, max_pool2d, conv2d, linear_cross_entropy, batch_norm_relu_max_pool2d
_SAMPLES = tuple(op.SAMPLES for op in _OPS)
_FAMILIES = tuple(family for samples in _SAMPLES for family in samples.families)
_STEMS = {"conv2d_relu": "conv2d"}  # whose kernels serve a family, where they do not bear its name
_BUDGET = {False: 360.0, True: 60.0}  # seconds


@dataclass(frozen=True)
class Job:
    """A row to be measured, and its ladder of sizes."""

    samples: Samples
    family: Family
    when: When
    sizes: tuple[int, ...]

    def ladder(self) -> list[search.Rung]:
        return [functools.partial(self._calls, size) for size in self.sizes]

    def _calls(self, size: int) -> Calls:
        on_gpu = self.family.device == "cuda" and torch.cuda.is_available()
        with torch.device("cuda") if on_gpu else contextlib.nullcontext():
            return self.samples.calls(self.family, self.when, size)


Rows = set[tuple[Family, int]]


def jobs(device: str, threads: int, ops: list[str], quick: bool) -> list[Job]:
    """All rows of so many threads, or of a GPU as this build serves it, each op's after those of its parts."""
    found = []
    for samples in _SAMPLES:
        for family in samples.families:
            if family.device != device or (ops and family.op not in ops):
                continue
            for when in family.combinations():
                if when.get("threads", THREADS[threads > 1]) != THREADS[threads > 1]:
                    continue
                if device == "cuda" and when["serving"] != _op.GPU.get(_STEMS.get(family.op, family.op)):
                    continue
                if not samples.candidates(family, when):
                    continue
                sizes = samples.sizes(family, when)
                found.append(Job(samples, family, when, tuple(sizes[:: 2 if quick else 1])))
    return found


class Progress:
    """One line on a terminal, rewritten; elsewhere one for each op."""

    def __init__(self, total: int):
        self._total, self._done, self._op, self._start = total, 0, "", time.monotonic()

    def step(self, job: Job, threads: int) -> None:
        self._done += 1
        seconds = time.monotonic() - self._start
        line = f"{job.family.op}, {threads} thread(s): row {self._done} of {self._total}, {seconds:.0f} s"
        if sys.stderr.isatty():
            print(f"\r{line:78s}", end="", file=sys.stderr, flush=True)
        elif (named := f"{job.family.op} {threads}") != self._op:
            print(line, file=sys.stderr, flush=True)
            self._op = named

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def measure(device: str, ops: list[str], quick: bool, seconds: float, thread_counts: list[int], verbose: bool) -> Rows:
    """Fills the rows of the families with what is measured; which ones they are."""
    planned = [(threads, job) for threads in thread_counts for job in jobs(device, threads, ops, quick)]
    planned.sort(key=_turn)
    effort, end = QUICK if quick else full(device), time.monotonic() + seconds
    progress = Progress(len(planned))
    measured: Rows = set()
    before = torch.get_num_threads()
    try:
        with collected(), fastest_library(device):
            for threads, job in planned:
                if time.monotonic() > end:
                    break
                torch.set_num_threads(threads)
                progress.step(job, threads)
                measured |= _fill(job, effort, verbose)
    except (KeyboardInterrupt, search.CaptureFailed) as error:
        print(f"\n{str(error) or 'interrupted'}; what was measured is kept", file=sys.stderr)
    finally:
        torch.set_num_threads(before)
        progress.end()
    return measured


def _turn(each: tuple[int, Job]) -> tuple[bool, bool]:
    """float32 first, and of it convolutions last, whose classes are many: there may be no time for all."""
    _, job = each
    return job.when.get("dtype", "float32") != "float32", job.samples is conv2d.SAMPLES


def _fill(job: Job, effort: Effort, verbose: bool) -> Rows:
    cells = search.climb(job.family, job.when, job.ladder(), Clock(job.family.device), effort)
    if not cells:
        return set()
    steps, filled = search.steps_of(cells, job.family.routes[0]), set()
    for when in job.samples.stands_for(job.when):
        row = job.family.row(**when)
        job.family.put(row, search.with_larger(steps, cells[-1].size, job.family.steps[row]))
        filled.add((job.family, row))
    if verbose:
        print(", ".join(f"{name} {value}" for name, value in job.when.items()))
        print("".join(f"  {cell}\n" for cell in cells), end="", flush=True)
    return filled


def changes(before: dict[tuple[Family, int], Steps], measured: Rows) -> list[str]:
    """What of the rows measured differs from the table in force before, a line each."""
    lines = []
    for family, row in sorted(measured, key=_order):
        old, new = before[family, row], family.steps[row]
        if old != new:
            when = family.when(row)
            by, classes = family.by(when), ", ".join(f"{name} {value}" for name, value in when.items())
            lines.append(f"{family.op} ({classes}): {describe_steps(new, by)}; was {describe_steps(old, by)}")
    return lines


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m torchext tune", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute instead of six: fewer sizes, wider intervals")
    parser.add_argument("--op", nargs="*", default=[], help="only these")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU, where one is, unless given")
    parser.add_argument("--threads", type=int, nargs="*", help="thread counts; 1 and all unless given")
    parser.add_argument("--seconds", type=float, help="about how long it may take")
    parser.add_argument("--out", type=Path, help="the file to write, not the one that torchext reads by itself")
    parser.add_argument("--verbose", action="store_true", help="print every measurement")
    options = parser.parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() and _op.GPU else "cpu")
    everyone = torch.get_num_threads()
    counts = [1] if device == "cuda" else options.threads or sorted({1, everyone})
    seconds = options.seconds or _BUDGET[options.quick]
    known = {family.op for family in _FAMILIES}
    if unknown := set(options.op) - known:
        parser.error(f"--op: {sorted(unknown)[0]!r}, expected among {', '.join(sorted(known))}")
    kind = _device_kind.gpu() if device == "cuda" else _device_kind.cpu()
    before = {(family, row): family.steps[row] for family in _FAMILIES for row in range(family.count)}
    what = kind if device == "cuda" else f"{kind}, threads {', '.join(map(str, counts))}"
    print(f"measuring {what}: about {seconds / 60:.0f} min", file=sys.stderr)
    measured = measure(device, options.op, options.quick, seconds, counts, options.verbose)
    path = options.out or _table_in_force.users(kind)
    written = keep(path, device, kind, measured)
    found = changes(before, measured)
    print("\n".join(found) or "nothing changed")
    print(f"{len(found)} of {len(measured)} rows measured changed; {written} rows in {path}")
    return 0


def keep(path: Path, device: str, kind: str, measured: Rows) -> int:
    """Writes the rows measured to the file, beside those that it has of others; how many lines there are."""
    with _table_file.locked(path):
        kept = _table_file.others(path, device, kind, measured)
        rows = []
        for family in dict.fromkeys(family for family, _ in sorted(measured | kept, key=_order)):
            rows += _table_file.rows_of(family, sorted(row for other, row in measured | kept if other is family))
        about = _table_file.about() | {"date": datetime.date.today().isoformat()}
        _table_file.write(_table_file.Table(device, kind, rows, about), path)
    return len(rows)


def _order(place: tuple[Family, int]) -> tuple[str, int]:
    return place[0].op, place[1]
