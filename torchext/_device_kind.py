"""What kind of device this is, as routing tables are keyed: its speed is another kind's only by chance."""

from __future__ import annotations

import re

import torch

from ._native import C


def cpu() -> str:
    """Instruction set and processor family, such as "avx512-amd-19h"; "stock" where nothing of ours was built."""
    return "stock" if C is None else f"{C.cpu_isa()}-{C.cpu_family()}"


def gpu(index: int | None = None) -> str:
    """Compute capability and name, such as "sm_90-nvidia-h100-80gb-hbm3". Starts CUDA."""
    major, minor = torch.cuda.get_device_capability(index)
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(index).lower()).strip("-")
    return f"sm_{major}{minor}-{name}"


def likeness(kind: str, other: str) -> int:
    """How well one kind's measurements serve another: 2 the same, 1 of one instruction set or capability, 0 neither."""
    return 2 if kind == other else int(kind.partition("-")[0] == other.partition("-")[0])
