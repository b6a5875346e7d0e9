"""python -m bench [--threads N] [--save NAME] [op ...]: the table of ratios to stock."""

import argparse
import importlib

import torch

from . import report
from .harness import environment, table

FILES = ("linear_relu", "cross_entropy", "conv2d", "max_pool2d", "dropout", "lenet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("ops", nargs="*", help=f"any of {', '.join(FILES)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch's pool, for both sides")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json, and the README's table from it")
    options = parser.parse_args()
    unknown = set(options.ops) - set(FILES)
    if unknown:
        parser.error(f"no benchmark for {', '.join(sorted(unknown))}; there are {', '.join(FILES)}")
    torch.set_num_threads(options.threads)
    files = [importlib.import_module(f"bench.bench_{op}") for op in FILES if not options.ops or op in options.ops]
    results = table(row for file in files for row in file.rows())
    if options.save:
        report.save(options.save, environment(), results)
        report.write_readme()


if __name__ == "__main__":
    main()
