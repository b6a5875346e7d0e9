"""The layout is the design: one stem per op, found in the same rooms everywhere; files short enough to read."""

import functools
import itertools
import os
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEMS = (
    *("linear_relu", "cross_entropy", "linear_cross_entropy", "conv2d", "max_pool2d", "batch_norm_relu_max_pool2d"),
    "dropout",
)
ROOMS = (
    "csrc/{stem}.h",
    "csrc/{stem}.cpp",
    "csrc/cpu/{stem}.cpp",
    "csrc/cpu/{stem}_kernels.h",
    "torchext/{stem}.py",
    "tests/test_{stem}.py",
    "bench/bench_{stem}.py",
)
GPU_ROOMS = ("csrc/cuda/{stem}.cu", "kernels/{stem}.py", "tests/csrc/mutate_{stem}.cu")  # where it has such a kernel
BUILT = (".*", "__pycache__", "build", "dist", "*.egg-info")
LINES = 300


def tracked(*patterns):
    """The files that match, as `git ls-files` takes patterns; of the tree's, where there is no git or no checkout."""
    names = listed() if shutil.which("git") else None
    return {name for name in names or lying() if any(fnmatch(name, pattern) for pattern in patterns)}


@functools.cache
def listed():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return listing.stdout.split()  # nothing, where this is no checkout


@functools.cache
def lying():
    """What lies in the tree, but what was built there."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if not any(fnmatch(f, pattern) for pattern in BUILT)]
        found += [(Path(folder) / f).relative_to(ROOT).as_posix() for f in files if not fnmatch(f, "*.so")]
    return found


@pytest.mark.parametrize("stem", STEMS)
def test_an_op_lives_in_its_rooms_and_nowhere_else(stem):
    longer = [other for other in STEMS if stem in other and other != stem]  # linear_cross_entropy's are its own
    found = {f for f in tracked(f"*{stem}*") if not f.startswith("bench/results/")}
    found = {f for f in found if not any(other in f for other in longer)}
    rooms = {room.format(stem=stem) for room in ROOMS}
    assert rooms <= found
    extra = found - rooms
    assert all(Path(f).parent in {Path(room).parent for room in (*rooms, *GPU_ROOMS)} for f in extra), extra
    assert all(stem in Path(f).name for f in extra)


@pytest.mark.parametrize("name", sorted(tracked("*.py", "*.h", "*.cpp", "*.cu", "*.cuh")))
def test_no_file_is_two_ideas_long(name):
    assert len((ROOT / name).read_text().splitlines()) <= LINES


def test_kernels_see_no_torch_but_the_element_types():
    for name in tracked("csrc/cpu/*", "csrc/cuda/*"):
        text = (ROOT / name).read_text()
        assert "torch/" not in text.replace('"../types.h"', ""), f"{name} includes torch"


def test_torch_is_seen_through_the_glue_alone():
    for name in tracked("csrc/*.cpp"):
        if "/" not in name.removeprefix("csrc/"):
            assert "#include <torch/" not in (ROOT / name).read_text(), (
                f"{name} includes torch itself; glue.h is the place"
            )


def test_every_op_has_a_schema_a_fake_and_a_cpu_kernel():
    import torch

    from torchext._op import OPS

    assert set(STEMS) <= set(OPS)
    for name in itertools.chain(*OPS.values()):
        for key in ("CPU", "Meta"):
            has = getattr(torch.ops.torchext, name).default.has_kernel_for_dispatch_key(key)
            fake = torch._library.simple_registry.singleton.find(f"torchext::{name}").fake_impl.kernel is not None
            assert has or (key == "Meta" and fake), f"torchext::{name} has no {key} implementation"


def test_an_op_is_cpu_only_until_it_has_a_cuda_kernel():
    from torchext._op import CPU_ONLY

    assert not {f"csrc/cuda/{name}.cu" for name in CPU_ONLY} & tracked("csrc/cuda/*")
