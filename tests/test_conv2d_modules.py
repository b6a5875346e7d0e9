"""conv2d and conv2d_relu as users meet them: errors, autocast, routes, modules."""

import pytest
import torch
from conv2d_cases import FUNCTIONS
from torch import nn as stock_nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as stock_F

import torchext
from torchext import _backend, _conv2d_plan, nn
from torchext._table import DIRECT, FAMILIES, STOCK
from torchext.nn import functional as F


@pytest.fixture(params=FUNCTIONS)
def pair(request):
    return FUNCTIONS[request.param]


@pytest.fixture
def native():
    with torchext.backend("native"):
        yield


def test_autocast_goes_to_stock(pair):
    x, w, b = torch.randn(5, 2, 6, 6), torch.randn(3, 2, 3, 3), torch.randn(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, stock = pair[0](x, w, b), pair[1](x, w, b)
    assert ours.dtype == stock.dtype == torch.bfloat16
    assert torch.equal(ours, stock)


X, W = torch.zeros(2, 3, 5, 5), torch.zeros(4, 3, 3, 3)
BAD = {
    "channels differ": ((X, torch.zeros(4, 2, 3, 3)), {}),
    "groups do not divide": ((X, W), {"groups": 2}),
    "groups 0": ((X, W), {"groups": 0}),
    "k not in groups": ((torch.zeros(2, 3, 5, 5), torch.zeros(4, 1, 3, 3)), {"groups": 3}),
    "bias too long": ((X, W, torch.zeros(5)), {}),
    "kernel too large": ((X, torch.zeros(4, 3, 7, 7)), {}),
    "padding unknown": ((X, W), {"padding": "full"}),
    "same with stride": ((X, W), {"padding": "same", "stride": 2}),
    "padding negative": ((X, W), {"padding": -1}),
    "stride 0": ((X, W), {"stride": 0}),
    "stride too long": ((X, W), {"stride": (1, 1, 1)}),
    "dilation 0": ((X, W), {"dilation": 0}),
    "stride not a number": ((X, W), {"stride": "2"}),
    "2-d input": ((torch.zeros(3, 5), W), {}),
    "3-d weight": ((X, torch.zeros(4, 3, 3)), {}),
    "dtypes differ": ((X, W.double()), {}),
    "not a tensor": (([1.0], W), {}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_raises_what_stock_raises_and_names_the_arguments(pair, bad):
    arguments, options = bad
    with pytest.raises(Exception) as stock:
        pair[1](*arguments, **options)
    with pytest.raises(stock.type, match=r"expected input .* weight .*; got input .* weight .*") as ours:
        pair[0](*arguments, **options)
    assert type(ours.value) is type(stock.value)


def test_where_the_table_says_so_stocks_own_call_serves(trace):
    x, w = torch.randn(2, 6, 12, 12), torch.randn(16, 6, 5, 5)
    with FAMILIES["conv2d", "cpu"].forced(STOCK), torchext.backend("auto"), torchext.record_routes() as routes:
        F.conv2d(x, w)
        with trace() as ops:
            F.conv2d_relu(x, w)
    assert [(r.op, r.backend) for r in routes] == [("conv2d", "stock"), ("conv2d_relu", "stock")]
    assert all("measured faster" in route.why for route in routes)
    assert not any(op.startswith("torchext.") for op in ops)


def test_an_image_too_large_for_the_direct_kernel_is_stocks(monkeypatch):
    monkeypatch.setattr(_conv2d_plan, "_MOST_SCRATCH", 1 << 10)
    x, w = torch.randn(2, 6, 12, 12), torch.randn(16, 6, 5, 5)
    with FAMILIES["conv2d", "cpu"].forced(DIRECT), torchext.backend("auto"), torchext.record_routes() as routes:
        torch.testing.assert_close(F.conv2d(x, w), torch.nn.functional.conv2d(x, w))
    assert [(r.backend, r.why) for r in routes] == [("stock", "an image too large for our kernel")]


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("device, dtype", [("cuda", torch.float64), ("cuda", torch.float32), ("cpu", torch.float64)])
@pytest.mark.parametrize("last", ["neither", "image", "weight"])
def test_float64_channels_last_on_a_gpu_goes_to_stock_whose_result_is_contiguous(
    monkeypatch, last, device, dtype, pooled
):
    monkeypatch.setattr(_conv2d_plan, "why_stock", lambda *args: None)  # which refuses fake tensors
    formats = [torch.channels_last if last == name else torch.contiguous_format for name in ("image", "weight")]
    with FakeTensorMode(), torchext.backend("native"):
        x, w = (
            torch.empty(s, dtype=dtype, device=device, memory_format=f)
            for s, f in zip(((2, 3, 6, 6), (4, 3, 3, 3)), formats)
        )
        plan = _conv2d_plan.plan("conv2d_relu_max_pool2d" if pooled else "conv2d", x, w, None, 1, 0, 1, 1)
    if device == "cuda" and dtype == torch.float64 and last != "neither":
        assert plan == _conv2d_plan.CONTIGUOUS_ON_GPU
    else:
        assert plan.out == (4, 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "stride": 2, "padding": (1, 2)},
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "groups": 2},
        {"padding": 1, "padding_mode": "replicate", "dilation": 2},
    ],
)
def test_modules_are_drop_ins(native, assert_drop_in, options):
    x = torch.randn(17, 2, 9, 9)
    assert_drop_in(nn.Conv2d(2, 4, 3, **options), stock_nn.Conv2d(2, 4, 3, **options), x)
    assert repr(nn.Conv2d(2, 4, 3, **options)) == repr(stock_nn.Conv2d(2, 4, 3, **options))
    fused, conv = nn.ConvReLU2d(2, 4, 3, **options), stock_nn.Conv2d(2, 4, 3, **options)
    fused.load_state_dict(conv.state_dict(), strict=True)
    torch.testing.assert_close(fused(x), conv(x).relu())
    assert repr(fused) == repr(conv).replace("Conv2d", "ConvReLU2d")


def test_a_convolution_is_served_with_its_max_pooling():
    x, conv, pool = torch.randn(17, 2, 9, 9), stock_nn.Conv2d(2, 4, 3), stock_nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    want = pool(conv(x).relu())
    torch.testing.assert_close(nn.ConvReLUMaxPool2d.serve(conv, x, pool), want)


KERNELS = [name for name in ("native", "simt", "triton") if name in _backend.backends()]


@pytest.mark.parametrize("pool", [None, 2])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("w", [(6, 1, 5, 5), (4, 8, 1, 1), (4, 1, 1, 1), (16, 16, 3, 3)])
def test_gradients_of_channels_last_filters_have_the_strides_of_the_filters(w, last, kernel, pool):
    """DDP compares the strides of dimensions of size 1 too; if they differ, it warns and copies every such gradient."""
    x, w = torch.randn(8, w[1], 8, 8), torch.randn(w).to(memory_format=torch.channels_last).requires_grad_()
    x = x.to(memory_format=torch.channels_last) if last else x
    with torchext.backend(kernel):
        y = F.conv2d(x, w) if pool is None else F.conv2d_relu_max_pool2d(x, w, pool_kernel_size=pool)
        y.square().sum().backward()
    want = stock_F.conv2d(x, w) if pool is None else stock_F.max_pool2d(stock_F.conv2d(x, w).relu(), pool)
    (want,) = torch.autograd.grad(want.square().sum(), w)
    assert w.grad.stride() == want.stride() == w.stride()
    torch.testing.assert_close(w.grad, want, rtol=1e-4, atol=1e-3)
