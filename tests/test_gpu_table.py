"""A GPU's run in tables: slower rows are marked, the worst is named, none is omitted; README holds the kept runs."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu_rows, gpu_run, gpu_sizes, gpu_table, results, table
from bench.__main__ import main

DEVICE = {"device": "NVIDIA Test 80GB", "threads": "4", "torch": "2.11", "date": "2026-01-02"}


def a_row(n, dtype="float32", **providers):
    """Providers by their microseconds on the device; a call takes 100 more. Stock takes 20 unless given."""
    timed = lambda us: {f"{mode}_{kind}": us + (100 if kind == "call" else 0) for mode in gpu_run.MODES
                        for kind in gpu_run.KINDS}  # fmt: skip
    named = {"stock": 20.0, **providers}
    entries = {name: {"route": name, "error": 1e-7, **timed(us)} if isinstance(us, float) else us
               for name, us in named.items()}  # fmt: skip
    floor = {"forward": 1.0, "training": 2.0}
    identity = {"op": "dropout", "size": f"({n}) p=0.5", "dtype": dtype, "layout": "contiguous", "typical": False}
    return {**identity, "shape": [n], "floor_us": floor, **entries}


def a_network(graphed):
    mode = lambda us, low: {"modes": {"step": {"us": us, "ratio": 400 / us, "low": low, "high": low + 0.1}}}
    providers = {"stock": mode(400.0, 1.0), "torchext": mode(500.0, 0.8)}
    if graphed:
        providers |= {"stock graphed": mode(90.0, 4.0), "torchext graphed": mode(60.0, 6.0)}
    identity = {"op": "LeNet", "size": "batch 64", "dtype": "float32", "layout": "contiguous"}
    return {**identity, "kind": "network", "typical": True, "providers": providers}


def a_run(rows, **more):
    return gpu_run.GpuRun("test", DEVICE, rows, **more)


def cells(text):
    """The Markdown table's rows, a dict each."""
    head, _, *body = [
        [cell.strip() for cell in line[1:-1].split(" | ")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [dict(zip(head, line, strict=True)) for line in body]


def test_slower_rows_are_marked_and_a_tie_is_not():
    rows = [a_row(64, native=10.0, triton=20.05), a_row(128, native=20.2, triton=40.0)]
    found = cells(gpu_table.markdown(*gpu_table.every(a_run(rows))))
    assert [line["row"] for line in found] == ["dropout (64) p=0.5", "", "", "dropout (128) p=0.5", "", ""]
    assert [line["provider"] for line in found] == ["stock", "native", "triton"] * 2
    times = ["20 us", "10 us (2.00x)", "20.1 us (1.00x)", "20 us", "20.2 us (0.99x **slower**)"]
    assert [line["forward + backward, device"] for line in found] == [*times, "40 us (0.50x **slower**)"]
    assert found[0]["forward + backward, floor"] == "2 us" and found[1]["forward, call"] == "110 us (1.09x)"


def test_the_readme_shows_the_median_row_and_names_the_worst():
    rows = [a_row(n, native=40.0, triton=40.0, auto=us) for n, us in ((64, 5.0), (256, 80.0), (512, 10.0))]
    run = a_run([*rows, a_row(1024, "bfloat16", auto=20.0)])
    (line,) = cells(gpu_table.short(run))
    assert line["middle row"] == "(1024) p=0.5 bfloat16" and line["faster by, device"] == "1.00x"
    assert line["worst row taken, device"] == "0.25x at (256) p=0.5"
    assert line["worst row taken, call"] == "0.67x at (256) p=0.5"
    assert line["taken"] == "4 of 4" and line["rows slower by 5 %, device and call"] == "1 and 1"
    assert "1.19x on the device (1 of 4 rows slower, 1 of them by more than 5 %)" in gpu_table.means(run)
    assert "what every call takes by default" in gpu_table.short(run)


def test_without_auto_our_fastest_on_the_device_is_shown():
    run = a_run([a_row(64, native=40.0, triton=10.0), a_row(128, native=10.0, triton={"failed": "ValueError: no"})])
    assert [gpu_run.served(row) for row in run.rows] == ["triton", "native"]
    assert 'the one of "native" and "triton"' in gpu_table.short(run) and "failed" not in gpu_table.short(run)


def test_failures_are_shown():
    failed = {"failed": "OutOfResources: 1 | 2\nand more"}
    run = a_run([a_row(64, native=40.0, auto=failed), a_row(128, auto=10.0)])
    assert "OutOfResources: 1 / 2" in gpu_table.long(run) and "and more" not in gpu_table.long(run)
    assert gpu_table.short(run).endswith("; failed: dropout (64) p=0.5.")
    (line,) = cells(gpu_table.short(a_run([a_row(64, auto=failed)])))
    assert line["rows slower by 5 %, device and call"] == "none of 1 measured"


def test_a_row_left_to_stock_is_never_our_worst_row():
    left = {"route": "stock", "training_device": 21.0, "training_call": 125.0}
    (line,) = cells(gpu_table.short(a_run([a_row(64, auto=left), a_row(128, auto=10.0)])))
    assert line["taken"] == "1 of 2" and line["worst row taken, device"] == "2.00x at (128) p=0.5"


def test_a_row_that_cannot_be_captured_still_shows_its_call():
    taken = {"route": "native", "training_call": 60.0, "uncaptured": "RuntimeError: not permitted"}
    text = gpu_table.long(a_run([a_row(64, auto=taken), a_row(128, auto=10.0)]))
    assert "60 us (2.00x)" in text and "| auto: native |" in text and "uncaptured: RuntimeError" in text


def test_networks_are_shown_eager_and_graphed():
    (line,) = cells(gpu_table.markdown(*gpu_table.networks([a_network(graphed=True)])))
    assert line["faster by"] == "0.80x (0.80-0.90) **slower**" and line["faster by, graphed"] == "1.50x"
    (line,) = cells(gpu_table.markdown(*gpu_table.networks([a_network(graphed=False)])))
    assert line["stock graphed"] == line["faster by, graphed"] == ""
    assert "LeNet" in gpu_table.short(a_run([a_row(64, auto=10.0)], networks=[a_network(graphed=True)]))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A README and a folder of kept runs; and, in another folder, a run of `make gpu`."""
    (tmp_path / "README.md").write_text(f"a\n{gpu_table.BEGIN}\nold\n{gpu_table.END}\nb\n")
    monkeypatch.setattr(table, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "FRESH", tmp_path / "fresh")
    left = tmp_path / "left"
    left.mkdir()
    rows = [a_row(64, native=10.0, triton=9.0), a_row(512, native=10.0, triton=5.0)]
    (left / "rows.json").write_text(json.dumps({"rows": rows, "environment": DEVICE, "roof": {}}))
    stages = {"steps": {"passed": True}, "proofs": {"passed": False}}
    (left / "summary.json").write_text(json.dumps({"environment": {"triton": "3.6"}, "stages": stages}))
    (left / "cuda.json").write_text("")  # interrupted
    return tmp_path


def test_a_run_is_kept_under_its_device_and_written_into_the_readme(kept):
    assert main(["keep-gpu", str(kept / "left")]) == 0
    target = kept / "results/nvidia-test-80gb"
    run = gpu_run.load(target)
    assert run.rows == gpu_run.load(kept / "left").rows and run.networks == []
    assert run.environment["triton"] == "3.6"
    text = (kept / "README.md").read_text()
    assert text.startswith("a\n") and text.endswith("\nb\n") and "old" not in text
    assert text.split(gpu_table.BEGIN)[1].split(gpu_table.END)[0].strip() == gpu_table.readme_table()
    assert "steps passed, proofs FAILED" in (target / "rows.md").read_text()
    assert main(["keep-gpu", str(target)]) == main(["keep-gpu"]) == 0  # in place, without a second copy
    assert (kept / "README.md").read_text() == text and gpu_run.load(target).rows == run.rows
    assert not list(target.glob("*.part"))


def test_the_report_draws_a_run_that_is_named_or_newest(kept):
    assert gpu_run.find([str(kept / "left"), "cpu-1-thread"]) == ([kept / "left"], ["cpu-1-thread"])
    assert main(["keep-gpu", str(kept / "left")]) == 0
    for chosen in (["nvidia-test-80gb"], []):
        assert main(["report", *chosen, f"--out={kept / 'page'}"]) == 0
        page = (kept / "page/report.html").read_text()
        assert page.count("data:image/png") == 1 and "dropout (512) p=0.5" in page
    assert (kept / "page/nvidia-test-80gb-ratios.png").exists()


def test_a_folder_without_rows_is_refused(kept):
    with pytest.raises(SystemExit, match="make gpu"):
        main(["keep-gpu", str(kept)])


def test_readme_holds_the_table_of_the_kept_runs():
    text = table.README.read_text()
    assert text.split(gpu_table.BEGIN)[1].split(gpu_table.END)[0].strip() == gpu_table.readme_table()
    for folder in gpu_run.folders(results.RESULTS):
        assert (folder / "rows.md").read_text() == gpu_table.long(gpu_run.load(folder))


def test_a_run_writes_a_line_per_row_and_resumes(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["gpu_rows", str(out), "--providers", "stock"])
    little = [case for case in gpu_sizes.cases() if case.op == "dropout"][:2]
    for chosen in (little[:1], little):
        monkeypatch.setattr(gpu_rows, "cases", chosen.copy)
        assert gpu_rows.main() == 0
        assert capsys.readouterr().out.count("dropout (") == 1  # only the new one
        lines = [line for line in out.read_text().splitlines() if line.startswith('{"op"')]
        assert [json.loads(line.rstrip(","))["shape"] for line in lines] == [[*case.size.shape] for case in chosen]
