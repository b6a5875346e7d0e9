"""`make gpu` without a GPU: its stages' limits, and a dry run of all of them on the CPU, with neither git nor
expecttest is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu, gpu_sizes

ROOT = Path(__file__).parent.parent


def test_all_stages_fit_into_thirteen_minutes():
    assert sum(stage.limit for stage in gpu.STAGES.values()) < 13 * 60


def test_every_op_with_a_gpu_kernel_has_rows_in_both_dtypes():
    stems = {path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")}
    found = {(case.op, case.identity()["dtype"]) for case in gpu_sizes.cases()}
    ops = {op for op, _ in found}
    assert {stem for stem in stems if any(op.startswith(stem) for op in ops)} == stems
    assert found == {(op, dtype) for op in ops for dtype in ("float32", "bfloat16")}
    names = [(str(case), case.op) for case in gpu_sizes.cases()]
    assert len(names) == len(set(names))


@pytest.fixture
def bare(tmp_path):
    """An environment in which git is not found and expecttest cannot be imported."""
    (tmp_path / "expecttest.py").write_text("raise ModuleNotFoundError('expecttest')\n")
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "git").exists())
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return kept | {"PATH": path, "PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


def run(out, environment, *arguments):
    command = [sys.executable, "bench/gpu.py", "--dry-run", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_stage_runs_leaves_its_results_and_is_not_run_twice(tmp_path, bare):
    done = run(tmp_path, bare)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert list(stages) == list(gpu.STAGES) and all(stage["passed"] for stage in stages.values())
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows and all(row["native"]["training_call"] > 0 for row in rows)
    assert "passed" in (tmp_path / "native-tests.log").read_text()
    again = run(tmp_path, bare)
    assert again.returncode == 0 and "rows" not in again.stdout


def test_failures_are_reported_and_late_commands_are_stopped(tmp_path):
    slow = gpu.Stage(1, lambda plan: {
        "sleeps": [sys.executable, "-c", "import time; time.sleep(60)"],
        "fails": [sys.executable, "-c", "raise SystemExit(3)"],
        "missing": ["no-such-program"],
    })  # fmt: skip
    found = gpu.run("slow", slow, gpu.Plan(tmp_path, dry=True))
    assert not found["passed"] and found["seconds"] < 30
    assert found["status"]["sleeps"] == "out of time" and found["status"]["fails"] == 3
    assert "no-such-program" in found["status"]["missing"]
