"""The layout is the design: one stem per op, in the same folders for every op; files short enough to read."""

import functools
import importlib
import inspect
import itertools
import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEMS = (
    *("linear_relu", "cross_entropy", "linear_cross_entropy", "conv2d", "max_pool2d", "conv2d_relu_max_pool2d"),
    *("batch_norm_relu_max_pool2d", "dropout"),
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
SHARED_GLUE = "csrc/glue/{stem}_*.h"  # where an op's glue shares with another's
TUNING = "torchext/tuning/{stem}.py"  # samples for the routing table
GPU_ROOMS = ("csrc/cuda/{stem}.cu", "kernels/{stem}.py", "tests/csrc/mutate_{stem}.cu")  # if it has such a kernel
SHARED = {  # places that another op's file serves too: on the CPU conv2d's kernels also pool
    "conv2d_relu_max_pool2d": ("csrc/cpu/{stem}.cpp", "csrc/cpu/{stem}_kernels.h"),
}
# Files that belong to one op each, except those that serve every op.
FOLDERS = {
    "csrc/*.cpp": {"module"},
    "csrc/cpu/*.cpp": {"isa"},
    "csrc/cuda/*.cu": set(),
    "kernels/*.py": {"__init__", "launch", "product", "relu_backward", "tile"},
    "torchext/[a-z]*.py": {"accelerate", "compile", "explain", "sequential"},
    "bench/bench_*.py": {"bench_networks"},
    "tests/csrc/mutate_*.cu": set(),
}
BUILT = (".*", "__pycache__", "build", "dist", "*.egg-info")
LINES = 250
LONGER = {  # to be split
    *("csrc/linear_cross_entropy.cpp", "csrc/cpu/conv2d_backward.h", "csrc/cpu/max_pool2d_backward_kernels.h"),
    "csrc/cuda/gemm.cuh",
}


def tracked(*patterns):
    """The files that match, and that git does not ignore; without git or a checkout, those in the tree."""
    names = listed() if shutil.which("git") else None
    return {name for name in names or lying() if any(fnmatch(name, pattern) for pattern in patterns)}


@functools.cache
def listed():
    known = "git", "ls-files", "--cached", "--others", "--exclude-standard"
    listing = subprocess.run(known, cwd=ROOT, capture_output=True, text=True, check=False)
    return listing.stdout.split()  # empty outside a checkout


@functools.cache
def lying():
    """The files in the tree, except what was built there."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if not any(fnmatch(f, pattern) for pattern in BUILT)]
        found += [(Path(folder) / f).relative_to(ROOT).as_posix() for f in files if not fnmatch(f, "*.so")]
    return found


def in_folder(pattern):
    """The files that match in the pattern's own folder, not below it."""
    return {name for name in tracked(pattern) if name.count("/") == pattern.count("/")}


@pytest.mark.parametrize("stem", STEMS)
def test_an_op_lives_in_its_rooms_and_nowhere_else(stem):
    longer = [
        other for other in STEMS if stem in other and other != stem
    ]  # linear_cross_entropy's files are not cross_entropy's
    found = {f for f in tracked(f"*{stem}*") if not f.startswith("bench/results/")}
    found = {f for f in found if not any(other in f for other in longer)}
    rooms = {room.format(stem=stem) for room in ROOMS if room not in SHARED.get(stem, ())}
    assert not rooms - found, f"{stem} has no {', '.join(sorted(rooms - found))}"
    extra = found - rooms
    homes = {Path(room).parent for room in (*rooms, *GPU_ROOMS, SHARED_GLUE, TUNING)}
    assert all(Path(f).parent in homes for f in extra), extra
    assert all(stem in Path(f).name for f in extra)


@pytest.mark.parametrize("pattern", FOLDERS)
def test_every_file_of_an_op_folder_is_named_after_an_op(pattern):
    names = {Path(name).stem for name in in_folder(pattern)} - FOLDERS[pattern]
    stems = {name: name.removeprefix("bench_").removeprefix("mutate_") for name in names}
    unknown = {name for name, stem in stems.items() if not any(f"{stem}_".startswith(f"{op}_") for op in STEMS)}
    assert names and not unknown


def test_every_op_that_is_declared_is_a_stem():
    from torchext._op import OPS

    assert set(STEMS) == set(OPS)


@pytest.mark.parametrize("stem", STEMS)
def test_an_op_without_gpu_kernels_says_so(stem):
    from torchext._op import CPU_ONLY

    has = any(tracked(room.format(stem=stem)) for room in GPU_ROOMS[:2])
    assert has is (stem not in CPU_ONLY), (
        "every `define` of an op without GPU kernels has cpu_only=True, and no other's"
    )


@pytest.mark.parametrize("stem", STEMS)
def test_every_layer_and_function_of_an_op_is_offered(stem):
    """A class of modules by torchext.nn, a function that stands for one of torch by torchext.nn.functional."""
    import torch

    from torchext import nn

    for name in in_folder(f"torchext/{stem}*.py"):
        module = importlib.import_module(f"torchext.{Path(name).stem}")
        for title, value in vars(module).items():
            if title.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                continue
            layer = isinstance(value, type) and issubclass(value, torch.nn.Module)
            function = hasattr(value, "__wrapped__") and "input" in inspect.signature(value).parameters
            assert not layer or title in nn.OURS, f"nn.OURS lacks {title}"
            assert not function or title in nn.functional.OURS, f"nn.functional.OURS lacks {title}"


def test_every_family_of_rows_is_tuned():
    from torchext._table import FAMILIES
    from torchext.tuning import machine

    untuned = set(FAMILIES.values()) - set(machine._FAMILIES)
    assert {(family.op, family.device) for family in untuned} == {("sequential", "cuda")}, "machine._OPS lacks them"


@pytest.mark.parametrize("name", sorted(tracked("tests/*.py", "bench/*.py")))
def test_nothing_is_imported_from_a_test(name):
    imported = re.findall(r"^\s*(?:from|import)\s+(?:\.|tests\.)*(test_\w+)", (ROOT / name).read_text(), re.M)
    assert not imported, "what tests share is in a *_cases.py"


@pytest.mark.parametrize("name", sorted(tracked("*.py", "*.h", "*.cpp", "*.cu", "*.cuh") - LONGER))
def test_no_file_is_two_ideas_long(name):
    lines = len((ROOT / name).read_text().splitlines())
    assert lines <= LINES, f"{lines} lines: split it by its ideas (LONGER holds what has not been split yet)"


def test_kernels_see_no_torch_but_the_element_types():
    for name in tracked("csrc/cpu/*", "csrc/cuda/*"):
        text = (ROOT / name).read_text()
        assert "torch/" not in text.replace('"../types.h"', ""), f"{name} includes torch"


def in_room(room, pattern):
    """The files that lie in the folder itself."""
    return {name for name in tracked(f"{room}/{pattern}") if Path(name).parent == Path(room)}


def test_contracts_see_no_torch_but_the_element_types():
    for name in in_room("csrc", "*.h") - {"csrc/types.h"}:
        text = (ROOT / name).read_text()
        assert "#include <torch/" not in text and '#include "glue/' not in text, f"{name} includes torch"


def test_torch_is_seen_through_the_glue_alone():
    for name in in_room("csrc", "*.cpp") | in_room("csrc/glue", "*.h") - {"csrc/glue/torch.h"}:
        text = (ROOT / name).read_text()
        assert "#include <torch/" not in text, f"{name} includes torch itself; csrc/glue/torch.h is the place"


def test_every_op_has_a_schema_a_fake_and_a_cpu_kernel():
    import torch

    from torchext._op import OPS

    for name in itertools.chain(*OPS.values()):
        for key in ("CPU", "Meta"):
            has = getattr(torch.ops.torchext, name).default.has_kernel_for_dispatch_key(key)
            fake = torch._library.simple_registry.singleton.find(f"torchext::{name}").fake_impl.kernel is not None
            assert has or (key == "Meta" and fake), f"torchext::{name} has no {key} implementation"


def test_an_op_is_cpu_only_until_it_has_a_cuda_kernel():
    from torchext._op import CPU_ONLY

    assert not {f"csrc/cuda/{name}.cu" for name in CPU_ONLY} & tracked("csrc/cuda/*")
