"""`make gpu`: everything that needs a GPU, in one go; installs and downloads nothing.

    build      torchext._C with CUDA, in place, for the GPU at hand
    test       the whole test matrix on it, native and Triton
    sanitize   compute-sanitizer (memcheck, racecheck, initcheck) on one step of every op and dtype
    bench      the benchmark: stock eager, stock in a CUDA graph, torch.compile (default, max-autotune), ours

Logs and tables go to bench/results/<device>/. A step that fails does not stop the others; the exit status counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ("memcheck", "racecheck", "initcheck")


def folder() -> Path:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"gpu: torch {torch.__version__} sees no GPU (built with CUDA {torch.version.cuda})")
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = ROOT / "bench/results" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def environment() -> dict[str, str]:
    import torch
    import triton

    major, minor = torch.cuda.get_device_capability()
    return {
        "device": torch.cuda.get_device_name(),
        "capability": f"{major}.{minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def build() -> list[list[str]]:
    return [[sys.executable, "setup.py", "build_ext", "--inplace"]]


def test() -> list[list[str]]:
    return [[sys.executable, "-m", "pytest", "-q", "-n", "8", "-m", "not long", "-k", "cuda or triton or test_gpu"]]


def sanitize() -> list[list[str]]:
    tool = shutil.which("compute-sanitizer") or "compute-sanitizer"
    step = [sys.executable, "bench/gpu_steps.py"]
    return [[tool, "--tool", name, "--error-exitcode", "1", *step] for name in TOOLS]


def bench() -> list[list[str]]:
    return [[sys.executable, "-m", "bench", "--device", "cuda", "--out", str(folder())]]


STEPS = {step.__name__: step for step in (build, test, sanitize, bench)}


def run(step: str, commands: list[list[str]], log: Path) -> dict:
    """Runs the commands one after the other, their output on the screen and in the log."""
    start, failed = time.monotonic(), 0
    variables = os.environ | {"USE_CUDA": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        for command in commands:
            print(f"== {step}: {' '.join(command)}", flush=True)
            try:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except FileNotFoundError as error:
                print(f"gpu: {error}", flush=True)
                failed += 1
                continue
            for line in process.stdout:
                file.write(line)
                print(line, end="", flush=True)
            failed += process.wait() != 0
    return {"step": step, "seconds": round(time.monotonic() - start), "failed": failed, "of": len(commands)}


def link_kernels() -> None:
    """torchext.kernels is the folder kernels/: an installation maps it, a build in place needs the link."""
    link = ROOT / "torchext/kernels"
    if not link.exists():
        link.symlink_to("../kernels")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", nargs="*", choices=[*STEPS, []], help="any of these; all by default, in this order")
    chosen = parser.parse_args().step or list(STEPS)
    results, about = folder(), environment()
    link_kernels()
    done = []
    for step in chosen:
        done.append(run(step, STEPS[step](), results / f"{step}.log"))
        (results / "summary.json").write_text(json.dumps({"environment": about, "steps": done}, indent=1) + "\n")
    for row in done:
        print(f"{row['step']:9s} {row['seconds']:5d} s   {'FAILED' if row['failed'] else 'passed'}")
    return sum(row["failed"] for row in done)


if __name__ == "__main__":
    sys.exit(main())
