"""python -m torchext info | tune | bench | demo: what is here and why not; the fastest routes; speed; the main job."""

import argparse
import platform
import subprocess
import sys
from pathlib import Path

import torch

import torchext

from . import _backend, _native, _op, _table_in_force


def info() -> int:
    """Prints the versions, the instruction sets and which backend serves the ops."""
    print(f"torchext {torchext.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"native    {_tell_native()}")
    print(f"cuda      {_tell_cuda()}")
    print(f"triton    {_tell_triton()}")
    print(f"backends  {', '.join(_backend.backends())}")
    print(f"threads   {torch.get_num_threads()}")
    for device, table in _table_in_force.in_force.items():
        print(f"routes    {device}: {table}")
    return 1 if _native.missing else 0


def _tell_native() -> str:
    if _native.missing:
        return f"no: {_native.missing}"
    return f"CPU, {_native.C.cpu_isa()} (this processor and build run {', '.join(_native.C.cpu_isas())})"


def _tell_cuda() -> str:
    if torch.version.cuda is None:
        return f"no: torch {torch.__version__} is built without CUDA"
    missing = "no CUDA kernels in this build (USE_CUDA=1 builds them or says why not)"
    if not _op.GPU:
        return f"no: {missing}, nor is Triton here"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU here"
    by_triton = [stem for stem, serving in _op.GPU.items() if serving == "triton"]
    if not by_triton:
        return device
    whose = "" if len(by_triton) == len(_op.GPU) else f" for {', '.join(by_triton)}"
    return f"{device}; Triton serves{whose}: {missing}"


def _tell_triton() -> str:
    kernels = _backend.triton()
    if kernels is None:
        return "no: pip install triton"
    if kernels.INTERPRETED:
        return "interpreted on the CPU (TRITON_INTERPRET=1)"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU; TRITON_INTERPRET=1 interprets it"


def bench(arguments: list[str]) -> int:
    """Measures on this machine: bench/ of the checkout, which wheels do not hold."""
    root = Path(__file__).parent.parent
    if not (root / "bench/harness.py").is_file():
        print("bench is in the source tree, not in wheels: run `python -m bench` in a checkout", file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=root, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torchext", description=__doc__)
    parser.add_argument("command", choices=("info", "tune", "bench", "demo"))
    command = parser.parse_args(sys.argv[1:2]).command
    if command == "info":
        return info()
    if command == "bench":
        return bench(sys.argv[2:])
    if command == "tune":
        from .tuning import machine

        return machine.main(sys.argv[2:])
    from . import demo

    return demo.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
