"""python -m torchext info | demo: what is available here and why not; the main job on real data."""

import argparse
import platform
import sys

import torch

import torchext

from . import _route


def info() -> int:
    """Prints the versions, the instruction sets and which backend serves the ops."""
    print(f"torchext {torchext.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    if _route._missing:
        print(f"native    no: {_route._missing}")
        return 1
    print(f"native    CPU, {torchext._C.cpu_isa()} (this processor and build run {', '.join(torchext._C.cpu_isas())})")
    print(f"backends  {', '.join(_route.backends())}")
    print(f"threads   {torch.get_num_threads()}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torchext", description=__doc__)
    parser.add_argument("command", choices=("info", "demo"))
    command = parser.parse_args(sys.argv[1:2]).command
    if command == "info":
        return info()
    from . import demo

    return demo.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
