"""Bytes of global memory that each launch moves, counted by csrc/simt, against the floor."""

import pytest
import torch
from matrix import DTYPES, needs_simt
from traffic import launches

pytestmark = needs_simt
ops = torch.ops.torchext
SEED = torch.tensor(3)


def dropout(dtype, count, offset=0, in_place=False):
    """Reads x and a seed of 8 bytes, writes y."""
    x = torch.randn(count + offset).to(dtype)[offset:]
    op = ops.dropout_.simt if in_place else ops.dropout.simt
    return lambda: op(x, SEED, 0.5, 2.0, 0.0, 0.0), (count * x.element_size() + 8, count * x.element_size())


# What to run, and the floors of bytes read and written: one launch each.
ROWS = {
    f"{make.__name__} {str(dtype).removeprefix('torch.')} {options}": make(dtype, *options)
    for make, dtypes, several in [
        (dropout, DTYPES, [(4096,), (100_003,), (300_000,), (100_000, 1), (100_000, 0, True), (100_000, 1, True)]),
    ]
    for dtype in dtypes
    for options in several
}


@pytest.mark.parametrize("call, floor", ROWS.values(), ids=ROWS)
def test_one_launch_moves_little_more_than_the_floor(call, floor):
    (launch,) = launches(call)
    for moved, least in zip((launch["read"], launch["written"]), floor):
        assert least <= moved <= 1.05 * least


def test_dropouts_packs_are_of_16_bytes_where_x_and_y_are_aligned():
    kernels = [launches(dropout(dtype, 1000, offset)[0])[0]["kernel"] for dtype in DTYPES for offset in (0, 1)]
    types = ("double", "float", "BFloat16", "Half")
    assert kernels == [f"dropout_kernel<{t}, {n}>" for t, wide in zip(types, (2, 4, 8, 8)) for n in (wide, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_dropout_reads_and_writes_each_element_once_and_each_warp_the_seed(dtype, offset):
    for count in (*range(1, 40), 255, 257, 1023, 1025, 9999):
        call, (_, least) = dropout(dtype, count, offset)
        (launch,) = launches(call)
        warps = launch["blocks"] * launch["threads"] // 32
        assert (launch["read"], launch["written"]) == (least + 8 * warps, least)


def test_an_empty_input_launches_nothing():
    assert launches(dropout(torch.float32, 0)[0]) == []
