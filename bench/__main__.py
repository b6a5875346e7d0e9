"""python -m bench [--threads N] [op ...]: the table of ratios to stock."""

import argparse
import importlib

import torch

from .harness import table

FILES = ("linear_relu", "cross_entropy", "conv2d", "max_pool2d", "dropout", "lenet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("ops", nargs="*", help=f"any of {', '.join(FILES)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch's pool, for both sides")
    options = parser.parse_args()
    unknown = set(options.ops) - set(FILES)
    if unknown:
        parser.error(f"no benchmark for {', '.join(sorted(unknown))}; there are {', '.join(FILES)}")
    torch.set_num_threads(options.threads)
    files = [importlib.import_module(f"bench.bench_{op}") for op in FILES if not options.ops or op in options.ops]
    table(row for file in files for row in file.rows())


if __name__ == "__main__":
    main()
