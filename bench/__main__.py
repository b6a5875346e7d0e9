"""python -m bench: measures torchext beside stock, torch.compile and others; draws, compares and keeps the results.

python -m bench [OP ...]         measures on 1 thread and on all; writes build/bench/*.json
python -m bench report [RUN ...] draws the newest runs, and GPUs': one HTML page and pictures, in build/bench/
python -m bench compare A B      exits with 1 if a row of B is slower than it was in A
python -m bench keep             keeps the newest runs in bench/results/, writes their tables and the README's
python -m bench keep-gpu [RUN]   keeps what `make gpu` left in a folder, likewise
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from . import compare, gpu_run, gpu_table, results, table

HERE = Path(__file__).parent


def measure(arguments: list[str]) -> int:
    """Runs pytest once per number of threads, in a process of its own: the pool cannot be resized cleanly."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    everything = torch.get_num_threads()
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ops", nargs="*", help=f"any of {', '.join(known)}; all by default")
    parser.add_argument("--threads", type=int, nargs="+", help=f"default: 1 and all, here {everything}")
    parser.add_argument("--seconds", type=float, default=0.5, help="measuring time per row")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--compile", choices=("none", "typical", "all"), default="typical", help="rows to torch.compile"
    )
    parser.add_argument("--long", action="store_true", help="on a CPU also the sizes meant for a GPU: minutes each")
    parser.add_argument("--only", default="", help="rows whose name holds this, as pytest's -k takes it")
    parser.add_argument("--out", type=Path, default=results.FRESH, help="where the JSON goes")
    options = parser.parse_args(arguments)
    unknown = set(options.ops) - set(known)
    if unknown:
        parser.error(f"no benchmark for {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    files = [str(path) for name, path in known.items() if not options.ops or name in options.ops]
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    threads = options.threads or ([1, everything] if device == "cpu" and everything > 1 else [everything])
    options.out.mkdir(parents=True, exist_ok=True)
    return max([run(files, count, device, options) for count in threads])


def run(files: list[str], threads: int, device: str, options: argparse.Namespace) -> int:
    """One pytest run; its JSON is named after device and threads."""
    count = f"{threads}-thread" + ("" if threads == 1 else "s")
    path = (options.out / f"{device if device == 'cuda' else f'cpu-{count}'}.json").resolve()
    print(f"{device}, {threads} thread(s): stock -> torchext, faster by (95 % interval), others", flush=True)
    chosen = [
        f"--threads={threads}",
        f"--device={device}",
        f"--seconds={options.seconds}",
        f"--compile={options.compile}",
        *(["--long"] if options.long else []),
        *(["-k", options.only] if options.only else []),
    ]
    quiet = ["-q", "--no-header", "--benchmark-quiet", "--tb=line", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *files, *chosen, *quiet, f"--benchmark-json={path}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}  # a worker's run saves no JSON
    status = subprocess.run(command, cwd=results.ROOT, env=environment, check=False).returncode
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", flush=True)
    return status


def draw(arguments: list[str]) -> int:
    """report: the page and its pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench report")
    parser.add_argument("runs", nargs="*", help="paths or names, a GPU's the folder's; the newest by default")
    parser.add_argument("--out", type=Path, default=results.FRESH, help="where the page and the pictures go")
    options = parser.parse_args(arguments)
    from . import page  # needs matplotlib

    folders, names = gpu_run.find(options.runs)
    runs = results.find(names) if names or not options.runs else []
    print(page.write([*map(results.load, runs)], options.out, [*map(gpu_run.load, folders)]))
    return 0


def beside(arguments: list[str]) -> int:
    """compare: two runs."""
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before")
    parser.add_argument("after")
    options = parser.parse_args(arguments)
    text, regressed = compare.report(*(results.load(p) for p in results.find([options.before, options.after])))
    print(text)
    return int(regressed)


def keep(arguments: list[str]) -> int:
    """keep: the newest runs become the committed ones."""
    argparse.ArgumentParser(prog="python -m bench keep").parse_args(arguments)
    for path in sorted(results.FRESH.glob("*.json")):
        results.load(path)  # refuses an interrupted run
        results.save(path, results.RESULTS / path.name)
    table.write()
    return 0


def keep_gpu(arguments: list[str]) -> int:
    """keep-gpu: a GPU's run becomes the committed one; without a folder only the tables are written anew."""
    parser = argparse.ArgumentParser(prog="python -m bench keep-gpu")
    parser.add_argument("folder", nargs="?", type=Path, help="where `make gpu` left its results")
    gpu_table.keep(parser.parse_args(arguments).folder)
    return 0


COMMANDS = {"report": draw, "compare": beside, "keep": keep, "keep-gpu": keep_gpu}


def main(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    return command(arguments[1:]) if command else measure(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
