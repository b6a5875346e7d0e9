"""Compiles kernels/ with Triton, which needs no GPU: `python bench/static_triton.py` writes bench/results/static/.

The launchers run on meta tensors; each launch they make is compiled by the interpreter's own Triton, in every autotune
configuration, for each target. Registers, stack and shared memory are as cuobjdump reports them, spills and the
instructions that matter as counted in the disassembly. tests/test_static_triton.py compares the tables with the
sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]
from bench import static_table  # noqa: E402
from bench.static_triton_cases import CASES  # noqa: E402

VERSIONS = "3.6", "3.9"  # the oldest supported, torch 2.11's, and the newest
TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
INSTRUCTIONS = {
    "16-byte loads": r"\bLDG\.E\S*\.128",
    "16-byte stores": r"\bSTG\.E\S*\.128",
    "async copies": r"\bLDGSTS",
    "TMA copies": r"\bUTMALDG|\bUTMASTG",
    "mma": r"\b[HD]MMA|\bUTC\w*MMA",
    "wgmma": r"\bHGMMA",
}
COLUMNS = ["kernel", "case", "config", "warps", "stages", "registers", "stack", "spills", "shared", *INSTRUCTIONS]
ABOUT = (
    "Written by `python bench/static_triton.py`. Each launch in every configuration it may be tuned to (0: the "
    "default); a spill is a load or store of local memory in the disassembly."
)


@dataclass(frozen=True)
class Launch:
    """What the compiler must know of one launch."""

    module: str  # of the kernel
    kernel: str  # its name there
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    by_16: tuple[int, ...]  # the arguments divisible by 16
    warps: int
    stages: int
    case: str
    config: int


def pointer(x) -> str:
    names = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int64": "i64",
             "int32": "i32", "uint8": "u8", "bool": "i1", "int8": "i8"}  # fmt: skip
    return "*" + names[str(x.dtype).removeprefix("torch.")]


def described(kernel, args: tuple, meta: dict, config, number: int) -> Launch:
    """The specialisation that Triton's JIT would choose for these arguments."""
    import torch

    meta = {**meta, **(config.kwargs if config else {})}
    warps = meta.pop("num_warps", config.num_warps if config else 4)
    stages = meta.pop("num_stages", config.num_stages if config else 3)
    bound = dict(zip(kernel.arg_names, args)) | meta
    signature, constants, by_16 = {}, {}, []
    for i, parameter in enumerate(kernel.params):
        value = bound[parameter.name]
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (free and type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = pointer(value)
            by_16.append(i)
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type or "fp32"
        elif isinstance(value, bool):
            signature[parameter.name] = "i1"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if free and value % 16 == 0:
                by_16.append(i)
    shown = [f"{k}={v}" for k, v in constants.items() if k.isupper()]
    dtypes = dict.fromkeys(t.removeprefix("*") for t in signature.values() if t.startswith("*"))
    case, name = " ".join([",".join(dtypes), *shown]), kernel.fn.__name__
    return Launch(
        kernel.fn.__module__, name, (*signature.items(),), (*constants.items(),), (*by_16,), warps, stages, case, number
    )


def launches(op: str, target: int) -> list[Launch]:
    """Every launch of the op's cases for one target, in each autotune configuration; equal ones once."""
    from torchext.kernels import launch

    found: dict[Launch, None] = {}

    def record(kernel, args, meta):
        configs = getattr(kernel, "configs", [None])
        while hasattr(kernel, "configs"):
            kernel = kernel.fn
        for number, config in enumerate(configs):
            found.setdefault(described(kernel, args, meta, config, number))

    with launch.recorded(record, target):
        for case in CASES[op]():
            case()
    return list(found)


def compiled(launch: Launch, target: int) -> dict:
    """The row of one launch."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from torchext.kernels.launch import OPTIONS

    kernel = getattr(sys.modules[launch.module], launch.kernel)
    while hasattr(kernel, "configs"):
        kernel = kernel.fn
    attrs = {(i,): [["tt.divisibility", 16]] for i in launch.by_16}
    constants = {(kernel.arg_names.index(name),): value for name, value in launch.constants}
    source = ASTSource(kernel, dict(launch.signature), constants, attrs)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "debug": bool(kernel.debug), **OPTIONS}
    binary = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, sass = (cuobjdump(option, file.name) for option in ("-res-usage", "-sass"))
    number = lambda name: int((re.findall(rf"\b{name}:(\d+)", usage) or ["0"])[0])
    return {
        "kernel": launch.kernel, "case": launch.case, "config": launch.config,
        "warps": launch.warps, "stages": launch.stages,
        "registers": number("REG"), "stack": number("STACK"), "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "shared": binary.metadata.shared,
        **{name: len(re.findall(pattern, sass)) for name, pattern in INSTRUCTIONS.items()},
    }  # fmt: skip


def cuobjdump(option: str, path: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def digest(op: str) -> str:
    """Of the op's kernels and the kernels they import, without comments and spaces; launch.py holds no kernels."""
    seen, todo = {"launch": ""}, [op]
    while todo:
        name = todo.pop()
        if name not in seen:
            text = (ROOT / f"kernels/{name}.py").read_text()
            seen[name] = re.sub(r"\s+", " ", re.sub(r"#.*", "", text))
            todo += re.findall(r"^from \.(\w+) import", text, re.M)
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()[:16]


def place(version: str, target: str) -> Path:
    return static_table.RESULTS / f"triton_{version}_{target}.md"


def main() -> int:
    import triton

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("op", nargs="*", help="only these (the default: all whose sources have changed)")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    version = ".".join(triton.__version__.split(".")[:2])
    if version not in VERSIONS:
        parser.error(f"this is Triton {triton.__version__}; the tables are of {' and '.join(VERSIONS)}")
    if not (link := ROOT / "torchext/kernels").exists():  # an installation maps the folder itself
        link.symlink_to("../kernels")
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for target, number in TARGETS.items():
            entries = static_table.read(place(version, target))
            for op in chosen.op or CASES:
                if not chosen.op and entries.get(op, {}).get("sources") == digest(op):
                    continue
                found = launches(op, number)
                rows = list(pool.map(compiled, found, [number] * len(found)))
                entries[op] = {"Triton": triton.__version__, "sources": digest(op), "kernels": rows}
                spilled = [f"{row['kernel']} ({row['case']})" for row in rows if row["spills"]]
                print(
                    f"{target} {op}: {len(rows)} kernels, at most {max(r['registers'] for r in rows)} registers, "
                    f"{'SPILLS: ' + ', '.join(spilled) if spilled else 'no spills'}",
                    flush=True,
                )
                static_table.write(place(version, target), f"Triton for {target}", ABOUT, COLUMNS, entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
