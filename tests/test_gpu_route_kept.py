"""The shipped routes of a GPU beside the committed run that they come from."""

import json
from pathlib import Path

import pytest
import torch

from torchext import _cross_entropy_route, _dropout_route, _max_pool2d_route
from torchext._table import NATIVE, STOCK

LAST = torch.channels_last
RUNS = sorted((Path(__file__).parent.parent / "bench/results").glob("*/rows.json"))


def place_of(row):
    """The family, the row and the size of a measured row; None where the row does not tell."""
    dtype, layout = getattr(torch, row["dtype"]), LAST if row["layout"] == "channels_last" else torch.contiguous_format
    if row["op"] not in ("cross_entropy", "max_pool2d", "dropout"):
        return None
    x = torch.empty(row["shape"], device="meta", dtype=dtype)
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    if row["op"] == "cross_entropy":
        return _cross_entropy_route.on_gpu(x, torch.empty(1, dtype=torch.int64))
    if row["op"] == "max_pool2d":
        side, stride = (int(part[0]) for part in row["size"].split()[-1].split("x")[1].split("/"))
        return _max_pool2d_route.on_gpu(x, side, stride, 1, False)
    return _dropout_route.on_gpu(x, x.numel(), False)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_the_table_takes_what_the_committed_run_took_and_no_row_of_it_was_slower(gpu, path):
    found = json.loads(path.read_text())["rows"]
    assert found
    for row in found:
        stock, auto, ours = row["stock"], row["auto"], row["auto"]["route"] == "native"
        place = place_of(row)
        if place is not None:
            family, number, size = place
            assert family.route(number, size) == (NATIVE if ours else STOCK), row
        for figure in ("training_device", "training_call", "forward_device", "forward_call") if ours else ():
            assert stock[figure] >= auto[figure], (row["op"], row["size"], figure)
