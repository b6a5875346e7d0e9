"""`make gpu`: everything that needs a GPU, in stages of minutes; installs and downloads nothing, needs no git.

    install    takes torchext._C from a wheel (WHEEL=...), or builds it in place where it has no CUDA kernels yet
    steps      one forward and backward of every op and dtype, native and Triton: does it run at all
    native     the test matrix on the CUDA kernels; meanwhile Triton compiles what the next stage measures
    rows       stock, native and Triton over all size classes: the routes' evidence (bench/gpu_rows.py)
    networks   whole training steps by "auto" beside stock, eager and in CUDA graphs
    tune       what `python -m torchext tune` finds on this GPU (routes.json)
    proofs     the test matrix on Triton's kernels; memcheck, racecheck and initcheck of the CUDA kernels

Each stage has a limit of its own and writes its log in OUT directly; one that fails does not stop the others; what has
passed before is not run again unless named. The exit status counts the stages that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DTYPES = "float64", "float32", "bfloat16", "float16"  # Triton compiles side by side: one after the other takes a minute
TOOLS = ("memcheck", "racecheck", "initcheck")
PYTEST = [
    "-m",
    "pytest",
    "-q",
    "--tb=short",
    "-p",
    "no:cacheprovider",
    "--continue-on-collection-errors",
    "-m",
    "not long",
]


@dataclass(frozen=True)
class Plan:
    """Where results go, and whether this is a dry run on a machine without a GPU: the same stages, less in each."""

    out: Path
    dry: bool
    scale: float = 1.0  # of the stages' limits


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side, by name, and the seconds they have together."""

    limit: int
    commands: Callable[[Plan], dict[str, list[str]]]


def op_tests() -> list[str]:
    """The files of the matrix; tests that need git, an installation or a C++ compiler are left out."""
    stems = [path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")]
    found = {path for stem in stems for path in (ROOT / "tests").glob(f"test_{stem}*.py")}
    return sorted(str(path.relative_to(ROOT)) for path in found)


def python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def steps(plan: Plan) -> dict[str, list[str]]:
    if plan.dry:
        return {"simt": python("bench/gpu_steps.py", "--device", "cpu", "--dtype", "float32", "simt")}
    compiled = {f"triton-{dtype}": python("bench/gpu_steps.py", "--dtype", dtype, "triton") for dtype in DTYPES}
    return {"native": python("bench/gpu_steps.py", "native"), **compiled}


def native(plan: Plan) -> dict[str, list[str]]:
    rows = "-m", "bench.gpu_rows", plan.out / "rows.json", "--warm"
    if plan.dry:
        tests = python(*PYTEST, "tests/test_gpu_steps.py", "-k", "simt")
        return {"tests": tests, "warm-0": python(*rows, "0/1", *LITTLE)}
    chosen = "-n", 8, "-k", "(cuda or test_gpu) and not triton"
    warm = {f"warm-{i}": python(*rows, f"{i}/6") for i in range(6)}
    return {
        "tests": python(*PYTEST, *op_tests(), *ONLY_THERE, *chosen),
        **warm,
    }


def rows(plan: Plan) -> dict[str, list[str]]:
    less = (*LITTLE, "--providers", "stock", "native") if plan.dry else ()
    return {"rows": python("-m", "bench.gpu_rows", plan.out / "rows.json", "--seconds", plan.scale * 115, *less)}


def networks(plan: Plan) -> dict[str, list[str]]:
    less = ("--device", "cpu", "--threads", 1, "--seconds", 0.01, "--only", "softmax") if plan.dry else ()
    chosen = "--compile", "none", "--device", "cuda", "--seconds", 0.3, "--out", plan.out, *less
    return {"networks": python("-m", "bench", "networks", *chosen)}


def tuned(plan: Plan) -> dict[str, list[str]]:
    less = ("--device", "cpu", "--op", "dropout", "--threads", 1, "--seconds", 5) if plan.dry else ("--device", "cuda")
    return {"tune": python("-m", "torchext", "tune", *less, "--verbose", "--out", plan.out / "routes.json")}


def proofs(plan: Plan) -> dict[str, list[str]]:
    """A caching allocator would hide overruns from memcheck; Triton under a sanitizer takes too long."""
    if plan.dry:
        return {"tests": python(*PYTEST, "tests/test_gpu_steps.py", "-k", "triton")}
    uncached = "env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"
    sanitizer = *uncached, "compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "1", "--tool"
    sanitized = {tool: [*sanitizer, tool, *python("bench/gpu_steps.py", "native")] for tool in TOOLS}
    return {
        "tests": python(*PYTEST, *op_tests(), "-n", 11, "-k", "triton and not gradcheck and not opcheck"),
        **sanitized,
    }


STAGES = {
    "steps": Stage(45, steps),
    "native": Stage(110, native),
    "rows": Stage(130, rows),
    "networks": Stage(60, networks),
    "tune": Stage(90, tuned),
    "proofs": Stage(120, proofs),
}
ONLY_THERE = "tests/test_gpu.py", "tests/test_gpu_library.py"  # tests of what only a GPU can show
LITTLE = "--every", 30, "--largest", 1e6  # of the rows: what a CPU does in seconds
BUILD = 900  # seconds; a wheel takes 1


def install(wheel: Path | None) -> None:
    """Puts torchext._C with CUDA kernels, and torchext.kernels, where an import from the checkout finds them."""
    link = ROOT / "torchext/kernels"
    if not link.exists():
        link.symlink_to("../kernels")
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract("torchext/_C.abi3.so", ROOT)
        return
    built = python("-c", "from torchext import _op; assert 'native' in _op.GPU.values()")
    if subprocess.run(built, cwd=ROOT, check=False).returncode != 0:
        build = python("setup.py", "build_ext", "--inplace")
        subprocess.run(build, cwd=ROOT, env=os.environ | {"USE_CUDA": "1"}, timeout=BUILD, check=True)


def run(name: str, stage: Stage, plan: Plan) -> dict:
    """Runs the stage's commands side by side, each into a log of its own, and shows how each log ends."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    running, status = {}, {}
    for title, command in stage.commands(plan).items():
        log = plan.out / f"{name}-{title}.log"
        try:
            with log.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
            running[title] = process, log
        except OSError as error:
            log.write_text(f"{error}\n")
            status[title] = str(error)
    for title, (process, log) in running.items():
        status[title] = finish(process, start + plan.scale * stage.limit)
        print(f"-- {name} {title}: {status[title]}\n{tail(log)}", flush=True)
    passed = all(code == 0 for code in status.values())
    return {"seconds": round(time.monotonic() - start), "passed": passed, "status": status}


def finish(process: subprocess.Popen, deadline: float) -> int | str:
    """The exit status. A late command is interrupted, so that pytest still reports what failed, and then killed."""
    for sign, patience in ((signal.SIGINT, max(0.1, deadline - time.monotonic())), (signal.SIGKILL, 12), (0, 12)):
        try:
            status = process.wait(patience)
            return status if sign == signal.SIGINT else "out of time"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, sign)
    return "out of time"


def tail(log: Path, lines: int = 6) -> str:
    return "\n".join(line[:240] for line in log.read_text(errors="replace").splitlines()[-lines:])


def environment() -> dict[str, str]:
    import torch
    import triton

    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "triton": triton.__version__}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found |= {"device": torch.cuda.get_device_name(), "capability": f"{major}.{minor}"}
    return found | {"python": sys.version.split()[0], "date": time.strftime("%Y-%m-%d")}


def folder(about: dict[str, str]) -> Path:
    if "device" not in about:
        raise SystemExit(f"gpu: torch {about['torch']} sees no GPU (built with CUDA {about['cuda']})")
    return ROOT / "bench/results" / re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="*", choices=[*STAGES, []], help="by default all that have not passed yet")
    parser.add_argument("--out", type=Path, help="by default bench/results/<device>")
    parser.add_argument("--wheel", type=Path, help="a wheel of torchext with CUDA kernels; nothing is built then")
    parser.add_argument("--scale", type=float, default=1.0, help="of the stages' limits: less where time is short")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: a little of every stage, on the CPU")
    options = parser.parse_args()
    about = environment()
    out = (options.out or folder(about)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(out, options.dry_run, options.scale)
    if not plan.dry:
        install(options.wheel)
    summary = out / "summary.json"
    before = json.loads(summary.read_text()) if summary.exists() else {}
    stages = before.get("stages", {}) if before.get("dry", False) == plan.dry else {}  # a dry run has passed nothing
    chosen = options.stage or [name for name in STAGES if not stages.get(name, {}).get("passed")]
    for name in chosen:
        stages[name] = run(name, STAGES[name], plan)
        summary.write_text(json.dumps({"environment": about, "dry": plan.dry, "stages": stages}, indent=1) + "\n")
    for name in chosen:
        print(f"{name:9s} {stages[name]['seconds']:5d} s   {'passed' if stages[name]['passed'] else 'FAILED'}")
    return sum(not stages[name]["passed"] for name in chosen)


if __name__ == "__main__":
    sys.exit(main())
