"""The tables of Triton's output (bench/static_triton.py), by its oldest and its newest version, are up to date, and no
kernel spills in its default configuration."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from torchext import _backend

if _backend.triton() is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import triton

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from bench import static_table, static_triton  # noqa: E402
from bench.static_triton import TARGETS, VERSIONS  # noqa: E402

each_version = pytest.mark.parametrize("version", VERSIONS)
each_target = pytest.mark.parametrize("target", list(TARGETS))
each_op = pytest.mark.parametrize("op", list(static_triton.CASES))


@cache
def read(version, target):
    return static_table.read(static_triton.place(version, target))


def test_every_kernel_is_in_the_tables():
    stems = {path.stem for path in (ROOT / "csrc").glob("*.cpp")}
    assert set(static_triton.CASES) == {path.stem for path in (ROOT / "kernels").glob("*.py")} & stems


def test_there_are_no_tables_of_other_versions():
    tables = {static_triton.place(version, target) for version in VERSIONS for target in TARGETS}
    assert set(static_table.RESULTS.glob("triton_*")) == tables


@each_version
@each_target
@each_op
def test_the_table_is_of_these_sources(op, target, version):
    found = read(version, target).get(op)
    assert found and found["sources"] == static_triton.digest(op), f"run bench/static_triton.py with Triton {version}"


@each_version
@each_target
@each_op
def test_no_kernel_spills_in_its_default_configuration(op, target, version):
    rows = read(version, target)[op]["kernels"]
    assert [(row["kernel"], row["case"]) for row in rows if row["spills"] and row["config"] == 0] == []


@each_version
@each_target
def test_dropout_moves_16_bytes_at_a_time(target, version):
    rows = read(version, target)["dropout"]["kernels"]
    assert len(rows) == 3 and all(row["16-byte loads"] and row["16-byte stores"] for row in rows)


def products(op, version, target, *signs):
    """The rows of 16-bit and TF32 products whose case contains all of `signs`."""
    rows = read(version, target)[op]["kernels"]
    cases = [row for row in rows if "PRECISION=" in row["case"] and "fp64" not in row["case"]]
    wide = [row for row in cases if "bf16" in row["case"] or "PRECISION=tf32" in row["case"]]
    return [row for row in wide if all(sign in row["case"] for sign in signs)]


@each_version
def test_products_use_the_matrix_units_of_each_target(version):
    for op in ("linear_relu", "conv2d"):
        assert all(row["wgmma"] for row in products(op, version, "sm_90", "BM=128"))
        assert all(row["mma"] for target in ("sm_80", "sm_100") for row in products(op, version, target))


@each_version
def test_large_products_are_copied_by_tma_where_the_target_has_it(version):
    for target in ("sm_90", "sm_100"):
        rows = products("linear_relu", version, target, "BM=128")
        assert rows and all("DESCRIBED=True" in row["case"] and row["TMA copies"] for row in rows)


@each_version
def test_where_the_target_has_no_tma_products_are_copied_asynchronously(version):
    assert all(row["async copies"] for row in products("linear_relu", version, "sm_80", "BM=128"))
    assert all(row["async copies"] for row in products("conv2d", version, "sm_80", "LAST=True"))


@pytest.mark.long
@each_op
def test_triton_agrees_with_the_table(op):
    script = (
        "import json; from bench import static_triton as s\n"
        f"rows = lambda n: [s.compiled(found, n) for found in s.launches({op!r}, n)]\n"
        "print(json.dumps({t: rows(n) for t, n in s.TARGETS.items()}))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    for version in VERSIONS:
        for target in TARGETS:
            found = read(version, target)[op]
            if found["Triton"] == triton.__version__:
                assert rows[target] == found["kernels"]
            assert [row["kernel"] for row in rows[target]] == [row["kernel"] for row in found["kernels"]]
