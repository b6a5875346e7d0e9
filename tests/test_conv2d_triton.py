"""The Triton kernels of conv2d: tiles, phases of a strided gradient, pieces, precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matrix import TRITON
from torch.nn import functional as stock_F

if not TRITON:
    pytest.skip("needs Triton, and a GPU or its interpreter", allow_module_level=True)

from torchext.kernels import INTERPRETED, conv2d, launch, product

ops = torch.ops.torchext
pytestmark = pytest.mark.usefixtures("on_triton")


@given(
    size=st.integers(1, 12), taps=st.integers(1, 5), stride=st.integers(1, 5), padding=st.integers(0, 4),
    dilation=st.integers(1, 4),
)  # fmt: skip
def test_phases_cover_every_pixel_and_tap_once(size, taps, stride, padding, dilation):
    met = []
    for pixels, reached, (advance, tap, start) in conv2d.phases(size, taps, stride, padding, dilation):
        for u, h in enumerate(range(size)[pixels]):
            for i, r in enumerate(range(taps)[reached]):
                met.append((h, r, u * advance + i * tap + start))
    # y's row p reads x's row p * stride - padding + r * dilation.
    every = [(p * stride - padding + r * dilation, r, p) for p in range(-40, 40) for r in range(taps)]
    assert sorted(met) == sorted((h, r, p) for h, r, p in every if 0 <= h < size)


def both(x, w, stride, padding=1, groups=1):
    """Our results and float64's."""
    x, w = x.detach(), w.detach()
    geometry = ([stride, stride], [padding, padding], [1, 1], groups)
    y = ops.conv2d.triton(x, w, None, *geometry, True)
    dy = torch.randn_like(y)
    exact = [t.double().requires_grad_() for t in (x, w)]
    want = stock_F.conv2d(*exact, None, *geometry)
    gradients = torch.autograd.grad(want, exact, dy.double())
    ours = ops.conv2d_backward.triton(dy, x, w, None, *geometry, True, True, True, True)
    return (y, *ours), (want, *gradients, dy.double().sum((0, 2, 3)))


def assert_right(results, wants):
    for got, want in zip(results, wants):
        bound = torch.finfo(got.dtype).eps * float(want.detach().abs().max()) * (16 if got.element_size() > 2 else 1)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=bound)


# Tiles end within an image, beyond all images, within a tap and between taps; channels of one tap fill a step, or not.
@pytest.mark.parametrize("step", [16, 256] if INTERPRETED else [16])  # 256 outgrow a GPU's shared memory
@pytest.mark.parametrize("channels, k, groups", [(64, 24, 1), (40, 130, 1), (48, 6, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tile_is_right(dtype, layout, channels, k, groups, step, monkeypatch):
    monkeypatch.setattr(conv2d, "step", lambda x, how: step)
    x = torch.randn(3, channels, 15, 13).to(dtype, memory_format=layout)
    w = torch.randn(k, channels // groups, 3, 3).to(dtype)
    assert_right(*both(x, w, stride=2, groups=groups))


@pytest.mark.parametrize("stride", [4, 5])
def test_pixels_past_the_last_read_nothing_at_any_stride(stride):
    x = torch.randn(3, 2, 9, 9)
    x[:, :, 0, 0] = float("nan")  # where a row that wraps around would be read
    y = ops.conv2d.triton(x, torch.ones(1, 2, 1, 1), None, [stride] * 2, [0, 0], [1, 1], 1, True)
    assert y.isnan().sum() == 3
    assert_right(*both(x.nan_to_num(0), torch.randn(1, 2, 1, 1), stride, padding=0))


def test_weight_gradients_sum_pieces_in_a_fixed_order(monkeypatch):
    x, w = torch.randn(8, 3, 20, 20), torch.randn(4, 3, 3, 3)
    names = []
    spy = lambda kernel, *args, **meta: (names.append(kernel.__name__), launch.launch(kernel, *args, **meta))
    monkeypatch.setattr(product, "launch", spy)
    dy = torch.randn(8, 4, 20, 20)
    arguments = (dy, x, w, None, [1, 1], [1, 1], [1, 1], 1, True, False, True, False)
    first = ops.conv2d_backward.triton(*arguments)[1]
    assert names == ["add_pieces_kernel"]
    assert torch.equal(first, ops.conv2d_backward.triton(*arguments)[1])


def test_float32_follows_torchs_switch_for_convolutions():
    x = torch.empty(1)
    for allowed, how in ((True, "tf32"), (False, "ieee")):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            assert product.precision(x, "conv") == how and product.precision(x.double(), "conv") == "ieee"
