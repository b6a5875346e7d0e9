"""The CUDA kernels of conv2d, run on csrc/simt: tiles, residues, order of threads, TF32, packs."""

import pytest
import torch
from matrix import DTYPES, needs_simt
from torch.nn import functional as stock_F
from traffic import launches

from torchext import _backend, _conv2d_plan

pytestmark = needs_simt
LAYOUTS = (torch.contiguous_format, torch.channels_last)
ops = torch.ops.torchext


def pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def run(dtype, x, w, layout, seed=0, stride=1, padding=0, dilation=1, groups=1):
    """x, w, b and dy; then conv2d_relu's result and all gradients."""
    torch.manual_seed(0)
    _backend.simt().seed(seed)
    x, w, b = (torch.randn(*s, dtype=torch.float64).to(dtype) for s in (x, w, w[:1]))
    x = x.to(memory_format=layout)
    geometry = pair(stride), pair(padding), pair(dilation), groups, True
    y = ops.conv2d_relu.simt(x, w, b, *geometry)
    dy = torch.randn(y.shape, dtype=torch.float64).to(dtype)
    return (x, w, b, dy), (y, *ops.conv2d_backward.simt(dy, x, w, y, *geometry, True, True, True))


def exact(x, w, b, dz, **options):
    """The same in float64, dz being the masked gradient."""
    x, w, b = (t.double().requires_grad_() for t in (x, w, b))
    y = stock_F.conv2d(x, w, b, **options)
    return (y.detach().relu(), *torch.autograd.grad(y, (x, w, b), dz.double()))


# What is convolved; on the four processors of csrc/simt the first two have large tiles.
SHAPES = {
    "large tiles, whole": ((2, 16, 16, 16), (128, 16, 1, 1), {}),
    "large tiles, ragged": ((2, 8, 17, 16), (72, 8, 3, 3), {"padding": 1}),
    "k split": ((1, 24, 5, 5), (10, 24, 5, 5), {"padding": 2}),
    "groups with tails": ((2, 24, 6, 5), (30, 8, 3, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 16, 7, 6), (32, 1, 3, 3), {"groups": 16, "padding": 1, "stride": 2}),
    "stride 2": ((2, 8, 10, 9), (16, 8, 3, 3), {"stride": 2, "padding": 1}),
    "strides with a divisor in common with dilations": (
        (1, 8, 17, 19),
        (8, 8, 3, 3),
        {"stride": (4, 6), "dilation": (2, 3), "padding": (3, 4)},
    ),
    "strides without one": ((1, 8, 14, 15), (8, 8, 3, 4), {"stride": (2, 3), "dilation": (3, 2), "padding": (5, 0)}),
    "pixels that no tap meets": ((2, 8, 7, 10), (8, 8, 1, 2), {"stride": (3, 4)}),
    "more residues than pixels": ((2, 8, 2, 3), (8, 8, 2, 2), {"stride": 5}),
}


# Allowed errors by result type: the longest sum has 578 terms.
ROUNDINGS = {torch.float64: 64, torch.float32: 16, torch.bfloat16: 2, torch.float16: 2}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tile_is_right(dtype, layout, shape):
    x, w, options = shape
    (x, w, b, dy), results = run(dtype, x, w, layout, **options)
    wants = exact(x, w, b, dy.where(results[0] > 0, 0), **options)
    for got, want in zip(results, wants):
        bound = torch.finfo(dtype).eps * float(want.abs().max()) * ROUNDINGS[dtype]
        torch.testing.assert_close(got.double(), want, rtol=0, atol=bound)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_order_of_threads_and_blocks(dtype, layout):
    """In the first shape, forward and the input gradient are split; in the second, the weight gradient."""
    for splits, *shape in ((2, (2, 12, 7, 7), (10, 12, 5, 5)), (1, (3, 4, 9, 9), (10, 4, 3, 3))):
        kernels = [launch["kernel"] for launch in launches(lambda s=shape: run(dtype, *s, layout, padding=2))]
        assert sum("pieces" in kernel for kernel in kernels) == splits
        runs = [run(dtype, *shape, layout, seed, padding=2)[1] for seed in range(4)]
        assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other))


@pytest.fixture(params=[False, True], ids=["ieee", "tf32"])
def tf32(request):
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=request.param):
        yield request.param


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_is_exact_unless_torch_allows_convolutions_tf32(tf32, layout):
    (x, w, b, dy), (y, *gradients) = run(torch.float32, (2, 8, 9, 8), (12, 8, 3, 3), layout, padding=1)
    # Rounded to 10 bits of mantissa, halves away from zero.
    rounded = lambda t: ((t.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    r = rounded if tf32 else lambda t: t
    dz = dy.where(y > 0, 0)
    want_y, want_dx, want_dw, _ = exact(r(x), r(w), b, r(dz), padding=1)
    for got, want in zip((y, *gradients), (want_y, want_dx, want_dw, dz.double().sum((0, 2, 3)))):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * float(want.abs().max()))


def widths(dtype, *shape, **options):
    """How many elements one copy moves, for each product's operands."""
    kernels = [launch["kernel"] for launch in launches(lambda: run(dtype, *shape, **options))]
    return [tuple(map(int, k.rsplit(">, ", 1)[1].split(", ")[:2])) for k in kernels if k.startswith("conv2d_kernel")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_are_of_16_bytes_where_channels_or_pixels_come_in_packs(dtype):
    wide = 16 // dtype.itemsize
    last, contiguous = torch.channels_last, torch.contiguous_format
    channels = (2, 2 * wide, 6, 6), (2 * wide, 2 * wide, 3, 3)
    assert widths(dtype, *channels, layout=last) == [(wide, wide)] * 3
    assert widths(dtype, *channels, layout=contiguous) == [(wide, 1), (1, 1), (1, 1)]
    assert widths(dtype, (2, 3, 6, 6), (5, 3, 3, 3), layout=last) == [(1, 1)] * 3
    pixels = (2, 2 * wide, 4, 4), (2 * wide, 2 * wide, 1, 1)
    assert widths(dtype, *pixels, layout=contiguous) == [(wide, wide)] * 3


def test_a_residue_is_a_launch_and_only_where_there_are_pixels():
    counts = []
    for stride, image in ((1, 6), (2, 6), (3, 2)):
        kernels = launches(
            lambda s=stride, i=image: run(torch.float32, (1, 4, i, i), (4, 4, 2, 2), LAYOUTS[1], stride=s)
        )
        counts.append(sum(launch["kernel"].startswith("conv2d_kernel") for launch in kernels) - 2)
    assert counts == [1, 4, 4]


@pytest.mark.parametrize("name", ["conv2d", "conv2d_relu"])
def test_empty_batches_have_zero_gradients(name):
    x, w, geometry = torch.randn(0, 3, 5, 5), torch.randn(4, 3, 3, 3), ([1, 1], [0, 0], [1, 1], 1, True)
    y = getattr(ops, name).simt(x, w, None, *geometry)
    dx, dw, db = ops.conv2d_backward.simt(y, x, w, None, *geometry, True, True, True)
    assert y.shape == (0, 4, 3, 3) and dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w)) and torch.equal(db, torch.zeros(4))


def test_an_image_of_2_to_the_30_columns_goes_to_stock():
    x, w = torch.zeros(1).expand(1, 1, 1, 1 << 30), torch.ones(1, 1, 1, 1)
    assert _conv2d_plan.plan("conv2d", x, w, None, 1, 0, 1, 1) == "shapes only stock takes"
    with pytest.raises(RuntimeError, match=r"2\^30"):
        ops.conv2d.simt(x, w, None, [1, 1], [0, 0], [1, 1], 1, True)
