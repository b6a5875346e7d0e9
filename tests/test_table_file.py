"""Which routing table is in force: the shipped one, the user's over it, or the one that TORCHEXT_TABLE names."""

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from torchext import _device_kind, _table_file, _table_in_force
from torchext._table import ANY, FAMILIES, LIBRARY, NATIVE, STOCK, Row
from torchext.tuning import machine

KIND = _device_kind.cpu()
LINEAR = FAMILIES["linear_relu", "cpu"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of its own, and every family as it was afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHEXT_TABLE", raising=False)
    before = {key: family.steps for key, family in FAMILIES.items()}
    kept = dict(_table_in_force.in_force)
    for family in FAMILIES.values():
        family.steps = list(family.steps)
    yield tmp_path
    _table_in_force.in_force.clear()
    _table_in_force.in_force.update(kept)
    for key, family in FAMILIES.items():
        family.steps = before[key]
        family.settle()


def a_row(route, **when):
    return Row("linear_relu", "cpu", {name: [value] for name, value in when.items()}, "multiply-adds", ((ANY, route),))


def a_table(*rows, kind=KIND, **about):
    return _table_file.Table("cpu", kind, list(rows), _table_file.about() | about)


def loaded():
    """Loads anew; the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _table_in_force.load("cpu", KIND)
    return [str(warning.message) for warning in told]


def some(**when):
    names = {"relu": "no", "dtype": "float32", "gradient": "no", "columns": "more", "rows": "to 31", "threads": "one"}
    return LINEAR.row(**{**names, **when})


def test_the_users_table_lies_over_the_shipped_one(home):
    assert loaded() == [] and _table_in_force.in_force["cpu"].how == "shipped"
    shipped = [LINEAR.route(some(dtype="float16"), size) for size in (10, 1 << 30)]
    _table_file.write(a_table(a_row("library", dtype="float32")), _table_in_force.users(KIND))
    assert loaded() == [] and _table_in_force.in_force["cpu"].how == "yours"
    assert LINEAR.route(some(), 1 << 12) == LIBRARY and LINEAR.route(some(gradient="yes"), 1) == LIBRARY
    assert [LINEAR.route(some(dtype="float16"), size) for size in (10, 1 << 30)] == shipped


def test_a_table_that_the_variable_names_stands_alone(home, monkeypatch):
    _table_file.write(a_table(a_row("native")), home / "mine.json")
    monkeypatch.setenv("TORCHEXT_TABLE", str(home / "mine.json"))
    assert (
        loaded() == []
        and str(_table_in_force.in_force["cpu"]) == f"measured on {KIND} (TORCHEXT_TABLE: {home}/mine.json)"
    )
    assert LINEAR.route(some(), 1) == NATIVE and FAMILIES["conv2d", "cpu"].stock_to == ANY
    monkeypatch.setenv("TORCHEXT_TABLE", "shipped")
    _table_file.write(a_table(a_row("library")), _table_in_force.users(KIND))
    assert loaded() == [] and _table_in_force.in_force["cpu"].how == "shipped"


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "no routing table (JSONDecodeError"),
        ("[]", "no routing table (TypeError"),
        ("{}", "no routing table (KeyError: 'format')"),
        (b"\xff\xfe", "no routing table (UnicodeDecodeError"),
        (
            json.dumps({"format": 9, "device": "cpu", "kind": KIND, "about": {}, "rows": []}),
            "its format is 9, expected 1",
        ),
        (_table_file.text(a_table(a_row("native"), torch="1.0")), "it was measured by"),
        (_table_file.text(a_table(a_row("native"), kind="avx9-other")), "on avx9-other"),
        (_table_file.text(a_table(a_row("winograd"))), "route 'winograd', expected among"),
        (_table_file.text(a_table(a_row("native", dtype="int8"))), "dtype is ['int8']"),
        (_table_file.text(a_table(a_row("native"))).replace("linear_relu", "gelu"), "names op 'gelu'"),
        (None, "Is a directory"),
    ],
)
def test_a_table_that_cannot_be_used_is_passed_over_with_one_warning(home, text, told):
    path = _table_in_force.users(KIND)
    path.parent.mkdir(parents=True)
    loaded()
    before = list(LINEAR.steps)
    if text is None:
        path.mkdir()
        with pytest.raises(OSError, match=told):
            _table_file.read(path)
        assert loaded() == []
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        (warning,) = loaded()
        assert str(path) in warning and "is not used" in warning and told in warning
    assert _table_in_force.in_force["cpu"].how == "shipped" and list(LINEAR.steps) == before


def test_a_missing_table_of_the_variable_is_told(home, monkeypatch):
    monkeypatch.setenv("TORCHEXT_TABLE", str(home / "nowhere.json"))
    (warning,) = loaded()
    assert "nowhere.json is not used" in warning and "No such file" in warning
    assert _table_in_force.in_force["cpu"].how == "shipped"


def test_a_write_that_ends_midway_leaves_the_old_table(home, monkeypatch):
    path = home / "table.json"
    _table_file.write(a_table(a_row("native")), path)
    before = path.read_text()

    def fails(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space"):
        _table_file.write(a_table(a_row("stock")), path)
    assert path.read_text() == before and [each.name for each in home.iterdir()] == ["table.json"]


def _lock(path, held):
    with _table_file.locked(path):
        held.set()


def test_a_table_is_written_by_one_process_at_a_time(home):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_lock, args=(home / "table.json", held))
    with _table_file.locked(home / "table.json"):
        process.start()
        assert not held.wait(0.5)
    assert held.wait(30)
    process.join()


def _keep(home, dtype):
    os.environ["XDG_CACHE_HOME"] = home
    number = some(dtype=dtype)
    LINEAR.steps[number] = ((ANY, LIBRARY),)
    for _ in range(10):
        machine.keep(_table_in_force.users(KIND), "cpu", KIND, {(LINEAR, number)})


def test_processes_that_write_at_once_keep_each_others_rows(home):
    dtypes = ("float32", "float64", "bfloat16", "float16")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep, args=(str(home), dtype)) for dtype in dtypes]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    loaded()
    assert [LINEAR.route(some(dtype=dtype), 5) for dtype in dtypes] == [LIBRARY] * 4


def test_a_kept_row_that_its_family_cannot_have_ends_no_measurement(home):
    path = _table_in_force.users(KIND)
    _table_file.write(a_table(a_row("native", dtype="float64"), a_row("winograd", dtype="bfloat16")), path)
    before = list(LINEAR.steps)
    machine.keep(path, "cpu", KIND, {(LINEAR, some())})
    (row,) = _table_file.read(path).rows
    assert row.when == {name: [value] for name, value in LINEAR.when(some()).items()} and list(LINEAR.steps) == before


def test_rows_of_other_versions_are_not_kept(home):
    path = _table_in_force.users(KIND)
    _table_file.write(a_table(a_row("library"), torch="1.0"), path)
    machine.keep(path, "cpu", KIND, {(LINEAR, some())})
    (row,) = _table_file.read(path).rows
    assert row.when == {name: [value] for name, value in LINEAR.when(some()).items()}


@pytest.mark.parametrize(
    "kind, likest",
    [("avx512-amd-19h", "avx512-amd-19h"), ("avx2-intel-06h-3ch", "avx2-"), ("sm_90-another", "sm_90-")],
)
def test_of_the_shipped_tables_the_likest_is_taken(kind, likest):
    device = "cuda" if kind.startswith("sm_") else "cpu"
    assert _table_in_force.shipped(device, kind).kind.startswith(likest)


def test_an_unknown_kind_has_a_table():
    assert (
        _table_in_force.shipped("cpu", "sve-arm").device == "cpu"
        and _table_in_force.shipped("cuda", "sm_70-x").device == "cuda"
    )


def _run(tmp_path, *arguments, **environment):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "torchext", *arguments]
    root = Path(__file__).parent.parent
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)


def test_the_command_measures_and_a_new_process_uses_it(tmp_path):
    done = _run(tmp_path, "tune", "--quick", "--op", "dropout", "--seconds", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    path = next(tmp_path.rglob("*.json"))
    assert f"rows in {path}" in done.stdout and "dropout, 1 thread(s)" in done.stderr
    assert {row.op for row in _table_file.read(path).rows} == {"dropout"}
    assert f"(yours: {path})" in _run(tmp_path, "info").stdout
    assert "(shipped: " in _run(tmp_path, "info", TORCHEXT_TABLE="shipped").stdout


def test_the_command_refuses_an_unknown_op(tmp_path):
    done = _run(tmp_path, "tune", "--op", "gelu")
    assert done.returncode == 2 and "--op: 'gelu', expected among batch_norm_relu_max_pool2d" in done.stderr


def test_stock_stays_where_nothing_is_named(home):
    _table_in_force.fill("cpu")
    assert LINEAR.stock_to == ANY and LINEAR.route(some(), 1 << 40) == STOCK
    assert torch.get_num_threads() >= 1
