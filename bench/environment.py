"""What a figure depends on: the machine, the versions, the commit. No names of machines or people."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from pathlib import Path

import torch

import torchext


def describe(device: str) -> dict[str, str]:
    chip = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "device": f"{chip}, {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else chip,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "torchext": f"{torchext.__version__}, {torchext._C.cpu_isa()}",
        "python": platform.python_version(),
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
        "float32 products": "TF32" if torch.backends.cuda.matmul.allow_tf32 else "float32",
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> dict[str, str]:
    """The checkout's commit; empty outside a checkout, or without git."""
    if shutil.which("git") is None:
        return {}
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {"id": run.stdout.strip()} if run.returncode == 0 else {}
