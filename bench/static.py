"""Compiles csrc/cuda with nvcc, which needs no GPU: `python bench/static.py` writes bench/results/static/sm_*.md.

Per target and kernel: registers, stack, spills and shared memory as ptxas reports them, and counts of the
instructions that matter in the PTX. Warnings are errors. tests/test_static.py compares the tables with the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]
from bench import static_table  # noqa: E402

TARGETS = {"sm_80": "80", "sm_90": "90a", "sm_100": "100"}
FLAGS = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v"]
INSTRUCTIONS = {
    "16-byte loads": r"ld\.global[.\w:]*\.v4\.[bfus]32|ld\.global[.\w:]*\.v2\.[bfus]64",
    "16-byte stores": r"st\.global[.\w:]*\.v4\.[bfus]32|st\.global[.\w:]*\.v2\.[bfus]64",
    "cp.async": r"cp\.async\.c[ag]",
    "ldmatrix": r"ldmatrix\.",
    "mma": r"mma\.sync",
}
COLUMNS = ["kernel", "registers", "stack", "spills", "shared", *INSTRUCTIONS]
ABOUT = "Written by `python bench/static.py`. Bytes of static shared memory; instructions as counted in the PTX."


def kernels() -> list[Path]:
    return sorted((ROOT / "csrc/cuda").glob("*.cu"))


def sources(path: Path, seen: dict[Path, str] | None = None) -> dict[Path, str]:
    """The file and what it includes by quotes, without comments and spaces."""
    seen = {} if seen is None else seen
    path = path.resolve()
    if path not in seen:
        text = path.read_text()
        seen[path] = re.sub(r"\s+", "", re.sub(r"//.*", "", text))
        for name in re.findall(r'^#include "(.+)"', text, re.M):
            sources(path.parent / name, seen)
    return seen


def digest(path: Path) -> str:
    parts = sorted((p.name, text) for p, text in sources(path).items())
    return hashlib.sha256(json.dumps([parts, FLAGS]).encode()).hexdigest()[:16]


def short(name: str) -> str:
    """`void torchext::cuda::(anonymous namespace)::f<float, (int)4>(float*)` -> `f<float, 4>`."""
    name = re.sub(r"\((?:int|bool|torchext::cuda::\w+)\)", "", name.replace("(anonymous namespace)::", ""))
    name = re.sub(r"torchext::cuda::|torchext::|c10::|^void ", "", name)
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def demangle(names: list[str]) -> list[str]:
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def compile_for(path: Path, target: str) -> list[dict]:
    """One row per kernel of the file; raises where nvcc warns or fails."""
    import torch

    number = TARGETS[target]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "nvcc",
            *FLAGS,
            f"-I{Path(torch.__file__).parent / 'include'}",
            "-gencode",
            f"arch=compute_{number},code=sm_{number}",
            "-cubin",
            "-keep",
            "-keep-dir",
            folder,
            "-o",
            f"{folder}/out.cubin",
            str(path),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise SystemExit(f"{path.name} for {target}: nvcc failed\n{run.stderr}")
        ptx = next(Path(folder).glob("*.ptx")).read_text()
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry|\Z)", ptx, re.S))
    rows = []
    report = re.split(r"Compiling entry function '(\w+)' for", run.stderr)
    for mangled, text in zip(report[1::2], report[2::2]):
        number_of = lambda pattern, text=text: int((re.findall(pattern, text) or ["0"])[0])
        rows.append(
            {
                "kernel": mangled,
                "registers": number_of(r"Used (\d+) registers"),
                "stack": number_of(r"(\d+) bytes stack frame"),
                "spills": number_of(r"(\d+) bytes spill stores") + number_of(r"(\d+) bytes spill loads"),
                "shared": number_of(r"(\d+) bytes smem"),
                **{name: len(re.findall(pattern, bodies[mangled])) for name, pattern in INSTRUCTIONS.items()},
            }
        )
    for row, name in zip(rows, demangle([row["kernel"] for row in rows])):
        row["kernel"] = short(name)
    return sorted(rows, key=lambda row: row["kernel"])


def place(target: str) -> Path:
    return static_table.RESULTS / f"{target}.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("op", nargs="*", help="only these (the default: all whose sources have changed)")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    tables = {target: static_table.read(place(target)) for target in TARGETS}
    fresh = lambda path, target: tables[target].get(path.stem, {}).get("sources") == digest(path)
    wanted = [
        (path, target)
        for path in kernels()
        for target in TARGETS
        if path.stem in chosen.op or (not chosen.op and not fresh(path, target))
    ]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for (path, target), rows in zip(wanted, pool.map(lambda pair: compile_for(*pair), wanted)):
            tables[target][path.stem] = {"sources": digest(path), "kernels": rows}
            spilled = [row["kernel"] for row in rows if row["spills"] or row["stack"]]
            print(
                f"{target} {path.stem}: {len(rows)} kernels, at most {max(r['registers'] for r in rows)} registers, "
                f"{'SPILLS: ' + ', '.join(spilled) if spilled else 'no spills'}"
            )
    stems = {path.stem for path in kernels()}
    for target, entries in tables.items():
        entries = {op: entry for op, entry in entries.items() if op in stems}
        static_table.write(place(target), f"nvcc for {target}", ABOUT, COLUMNS, entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
