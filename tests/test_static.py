"""The tables of nvcc's output (bench/static.py) are up to date; no kernel spills or lacks its instructions."""

import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import static, static_table

CELLS = [(path.stem, target) for path in static.kernels() for target in static.TARGETS]


read = cache(static_table.read)


def entry(op, target):
    return read(static.place(target)).get(op)


@pytest.mark.parametrize("op, target", CELLS)
def test_the_table_is_of_these_sources(op, target):
    found = entry(op, target)
    assert found and found["sources"] == static.digest(static.ROOT / f"csrc/cuda/{op}.cu"), "run python bench/static.py"


@pytest.mark.parametrize("op, target", CELLS)
def test_no_kernel_spills(op, target):
    assert [row["kernel"] for row in entry(op, target)["kernels"] if row["spills"] or row["stack"]] == []


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_matrix_products_run_on_tensor_cores_fed_by_async_copies(target):
    rows = {row["kernel"]: row for row in entry("linear_relu", target)["kernels"]}
    halves = [r for name, r in rows.items() if "TensorCores<BFloat16" in name or "TensorCores<Half" in name]
    assert halves and all(r["mma"] and r["ldmatrix"] for r in halves)
    assert all(
        r["cp.async"] for name, r in rows.items() if "matmul" in name and "Half" not in name and "BFloat16" not in name
    )
    wide = [r for name, r in rows.items() if name.startswith("relu_backward_kernel") and not name.endswith(", 1>")]
    assert wide and all(r["16-byte loads"] and r["16-byte stores"] for r in wide)


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_convolutions_run_on_tensor_cores_fed_by_async_copies(target):
    rows = {r["kernel"]: r for r in entry("conv2d", target)["kernels"] if r["kernel"].startswith("conv2d_kernel")}
    halves = [r for name, r in rows.items() if "TensorCores<BFloat16" in name or "TensorCores<Half" in name]
    assert halves and all(r["mma"] and r["ldmatrix"] for r in halves)
    assert all(r["mma"] for name, r in rows.items() if "TensorCores<float" in name)
    single_halves = [name for name, r in rows.items() if not r["cp.async"]]
    assert all(name.endswith((", 1, 1, BFloat16>", ", 1, 1, Half>")) for name in single_halves)


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_dropout_moves_16_bytes_at_a_time(target):
    rows = entry("dropout", target)["kernels"]
    wide = [row for row in rows if not row["kernel"].endswith(", 1>")]
    assert len(wide) == 4 and all(row["16-byte loads"] and row["16-byte stores"] for row in wide)


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_cross_entropy_moves_16_bytes_at_a_time(target):
    rows = [
        r for r in entry("cross_entropy", target)["kernels"] if r["kernel"].split("_")[0] in ("softmax", "gradient")
    ]
    wide = [r for r in rows if int(r["kernel"].strip(">").split(", ")[2 if "rows" in r["kernel"] else 1]) > 1]
    assert len(wide) == 4 * (2 * 4 + 2 * 2)  # dtypes x (threads of a row; warps of a plane)
    assert all(r["16-byte loads"] for r in wide)
    assert all(r["16-byte stores"] for r in wide if r["kernel"].startswith("gradient"))


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_max_pool2d_moves_16_bytes_at_a_time(target):
    rows = {row["kernel"].replace("_kernel", ""): row for row in entry("max_pool2d", target)["kernels"]}
    for dtype, wide in (("double", 2), ("float", 4), ("BFloat16", 8), ("Half", 8)):
        assert rows[f"pool_pairs<{dtype}, {wide}>"]["16-byte loads"] == 2
        assert rows[f"unpool_pairs<{dtype}, {wide}>"]["16-byte stores"] == 2
        for k in (0, 2, 3):
            row = rows[f"pool_windows<{dtype}, {wide}, {k}>"]
            assert row["16-byte loads"] > k * k and row["16-byte stores"]
        for unpool in (
            f"patches<{dtype}, {wide}>",
            f"gather<{dtype}, {wide}, false>",
            f"gather<{dtype}, {wide}, true>",
        ):
            assert rows[f"unpool_{unpool}"]["16-byte loads"] and rows[f"unpool_{unpool}"]["16-byte stores"]


@pytest.mark.parametrize("target", list(static.TARGETS))
def test_conv2d_relu_max_pool2d_stages_16_bytes_at_a_time_and_two_blocks_fit(target):
    rows = entry("conv2d_relu_max_pool2d", target)["kernels"]
    staging = [row for row in rows if row["kernel"].startswith(("conv_pool", "weight_gradient"))]
    assert len(staging) == 4 * (4 + 4) and all(row["16-byte loads"] for row in staging)
    assert all(row["registers"] <= 128 for row in rows if "double" not in row["kernel"])


@pytest.mark.long
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("op, target", CELLS)
def test_nvcc_agrees_with_the_table(op, target):
    assert static.compile_for(static.ROOT / f"csrc/cuda/{op}.cu", target) == entry(op, target)["kernels"]
