"""Global memory that the GPU kernels read and write, counted by csrc/simt, against the floor.

One row a launch: what is run, the kernel's name, and its floor in bytes. At most 5 % more is allowed.
"""

import pytest
import torch
from matrix import needs_simt
from traffic import launches

pytestmark = needs_simt
ops = torch.ops.torchext


def cross_entropy(dtype, n, c, *s, offset=0):
    """Forward and backward by class indices; logits begin `offset` elements after a multiple of 16 bytes."""
    count = n * c * (s[0] if s else 1)
    x = torch.randn(count + offset).to(dtype)[offset:].view(n, c, *s)
    target = torch.randint(c, (n, *s))

    def run():
        loss, stats = ops.cross_entropy.simt(x, target, None, -100, 0.0, 1)
        ops.cross_entropy_backward.simt(loss, x, target, None, stats, -100, 0.0, 1)

    positions, logits = target.numel(), x.numel() * x.itemsize
    beside = positions * (8 + 2 * 4)  # the index; max and 1 / sum
    kind = "planes" if s else "rows"
    return run, {f"softmax_{kind}_kernel": logits + beside, f"gradient_{kind}_kernel": 2 * logits + beside}


HALF, FLOAT = torch.bfloat16, torch.float32
ROWS = [
    *((cross_entropy, (dtype, n, c)) for dtype in (FLOAT, HALF) for n, c in ((4096, 10), (64, 1000), (2, 32000))),
    *((cross_entropy, (dtype, 1, 131072)) for dtype in (FLOAT, HALF)),
    *((cross_entropy, (dtype, 2, 50257)) for dtype in (FLOAT, HALF)),
    *((cross_entropy, (dtype, 2, 21, 1000)) for dtype in (FLOAT, HALF)),
    *((cross_entropy, (dtype, 1, 2000, 40)) for dtype in (FLOAT, HALF)),
]


@pytest.mark.parametrize("case, shape", ROWS, ids=lambda v: v.__name__ if callable(v) else "-".join(map(str, v)))
def test_no_byte_is_read_or_written_twice(case, shape):
    run, floors = case(*shape)
    done = launches(run)
    for name, floor in floors.items():
        (launch,) = [x for x in done if x["kernel"].startswith(name)]
        moved = launch["read"] + launch["written"]
        assert floor <= moved <= 1.05 * floor, f"{launch['kernel']}: {moved} bytes, floor {floor}"


def test_the_sums_of_blocks_are_few():
    run, floors = cross_entropy(HALF, 40000, 10)
    total = next(x for x in launches(run) if x["kernel"].startswith("total_kernel"))
    assert total["read"] <= 0.02 * floors["softmax_rows_kernel"]


@pytest.mark.parametrize("smoothing, weighted", [(0.0, False), (0.1, True)])
def test_cross_entropy_launches_these_kernels(smoothing, weighted):
    x, target, dloss = torch.randn(20, 30), torch.randint(30, (20,)), torch.ones(())
    options = (torch.rand(30) if weighted else None), -100, smoothing, 1

    def run():
        _, stats = ops.cross_entropy.simt(x, target, *options)
        ops.cross_entropy_backward.simt(dloss, x, target, options[0], stats, *options[1:])

    kernels = [x["kernel"].split("_kernel")[0] for x in launches(run)]
    assert kernels == ["softmax_rows", "total", *(["sum_weights"] if weighted else []), "gradient_rows"]


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("c", [50, 64, 1001, 20001])
def test_rows_move_by_16_bytes_wherever_they_begin(c, offset):
    run, _ = cross_entropy(HALF, 3, c, offset=offset)
    for launch in launches(run)[:1]:
        wide = launch["kernel"].endswith(", 8>")
        assert wide == (c > 64 or (c % 8 == 0 and offset == 0)), launch["kernel"]
