"""torchext.tune(model, *example): what it measures, what it keeps, and that the model is left as it was."""

import pytest
import torch

import torchext
from torchext import _table_file, _table_in_force
from torchext._table import FAMILIES, NATIVE
from torchext.tuning.clock import Ratio


@pytest.fixture(autouse=True)
def auto():
    with torchext.backend("auto"):
        yield


def lenet():
    nn = torchext.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Dropout(0.5), nn.Linear(120, 10),
    )  # fmt: skip


def test_a_models_calls_are_measured_and_take_what_won(timetable):
    torch.manual_seed(0)
    network, x = lenet(), torch.randn(16, 1, 28, 28)
    state = {name: t.clone() for name, t in network.state_dict().items()}
    tuning = torchext.tune(network, x)
    parts = {"conv2d_relu", "max_pool2d"}  # what a pooled convolution is where it is not one
    assert {call.op for call in tuning.calls} == {"conv2d_relu_max_pool2d", "linear_relu", "dropout", "linear", *parts}
    assert {call.route for call in tuning.calls} == {"direct", "native"}
    assert {choice.backend for choice in torchext.explain(network, x).choices} == {"native"}
    assert all(torch.equal(t, state[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    timetable.taken = dict.fromkeys(timetable.taken, 1.0)
    tuning = torchext.tune(network, x)
    assert {call.route for call in tuning.calls} <= {"stock", "apart"}
    assert {call.before for call in tuning.calls} <= {"direct", "native", "stock"}
    assert {choice.backend for choice in torchext.explain(network, x).choices} == {"stock"}


def test_what_was_measured_prints_as_a_table_and_is_kept(timetable):
    tuning = torchext.tune(torchext.nn.Linear(8, 4), torch.ones(16, 8))
    (call,) = tuning.calls
    assert (call.op, call.arguments) == ("linear", "float32[16, 8], float32[4, 8]*, float32[4]*")
    assert call.faster["native"] == Ratio(2.0, 2.0, 2.0) and call.microseconds == 1e6
    text = str(tuning)
    assert "native 2.00 (2.00-2.00)" in text and "times faster than stock" in text
    path = next(iter(_table_in_force.cache().glob("*.json")))
    assert f"kept in {path}" in text
    (row,) = _table_file.read(path).rows
    assert row.op == "linear_relu" and "native" in {route for _, route in row.steps}


def test_the_answer_holds_about_the_size_measured(timetable):
    family = FAMILIES["linear_relu", "cpu"]
    timetable.taken = dict.fromkeys(timetable.taken, 1.0)
    layer, x = torchext.nn.LinearReLU(64, 64), torch.ones(64, 64)
    torchext.tune(layer, x)
    number = next(row for row in range(family.count) if len(family.steps[row]) != len(set(family.steps[row])) or True)
    with torchext.record_routes() as choices:
        layer(x)
    number = choices[0].decided[1]
    before = [family.route(number, size) for size in (1 << 10, 1 << 26)]
    timetable.taken = timetable.taken | {NATIVE: 0.5}
    torchext.tune(layer, x)
    size = 64**3
    assert [family.route(number, s) for s in (int(size / 1.4), size, int(size * 1.4))] == [NATIVE] * 3
    assert [family.route(number, s) for s in (1 << 10, 1 << 26)] == before


def test_a_model_that_calls_none_of_our_ops_is_told(timetable):
    assert "no call reached" in str(torchext.tune(torch.nn.Linear(3, 4), torch.ones(2, 3)))
    with pytest.raises(TypeError, match=r"tune: model is a int, expected a torch\.nn\.Module"):
        torchext.tune(3)


def test_where_tables_may_not_be_written_the_process_keeps_it(timetable, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHEXT_TABLE", "shipped")
    assert "kept in this process alone: TORCHEXT_TABLE=shipped" in str(
        torchext.tune(torchext.nn.Linear(8, 4), torch.ones(16, 8))
    )
    monkeypatch.delenv("TORCHEXT_TABLE")
    (tmp_path / "torchext").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="kept in this process alone"):
        torchext.tune(torchext.nn.Linear(8, 4), torch.ones(16, 8))
