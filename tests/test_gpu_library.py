"""The library's products with ReLU in their epilogue, on a GPU; without one, on tensors that claim to be on one."""

import pytest
import torch
from gpu_cases import route
from torch.nn import functional as stock

import torchext
from torchext import _gpu, _gpu_library
from torchext._table import ANY
from torchext.nn import functional as F

GPU = torch.cuda.is_available()
LIBRARY, EVERY = ("linear_relu", "conv2d_relu"), ({}, 0, "library")


@pytest.fixture
def library(request, monkeypatch, cudnn):
    """The library serves whatever it can; stock's two calls stand in for it where there is no cuDNN."""
    with torch.device("cuda") if GPU else torch.device("cpu"):
        cudnn(deterministic=False)
        if not GPU:
            request.getfixturevalue("gpu")
            rectified = lambda x, w, b, *geometry: stock.relu(stock.conv2d(x, w, b, *geometry))
            monkeypatch.setattr(_gpu_library, "_convolution_relu", rectified)
        for op in LIBRARY:
            route(monkeypatch, op, EVERY)
        with torchext.backend("auto"):
            yield monkeypatch


def leaves(*shapes, dtype=torch.float32):
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def relu_of_linear(x, w, b):
    return stock.relu(stock.linear(x, w, b))


def relu_of_conv2d(x, w, b, *options):
    return stock.relu(stock.conv2d(x, w, b, *options))


CALLS = {
    "linear": (F.linear_relu, relu_of_linear, ((7, 5), (3, 5), (3,)), ()),
    "linear of three dimensions": (F.linear_relu, relu_of_linear, ((2, 4, 5), (3, 5), (3,)), ()),
    "conv2d": (F.conv2d_relu, relu_of_conv2d, ((2, 3, 8, 7), (4, 3, 3, 3), (4,)), ()),
    "conv2d with stride and padding": (F.conv2d_relu, relu_of_conv2d, ((2, 3, 8, 7), (4, 3, 3, 3), (4,)), (2, (1, 0))),
}


def routes(call):
    with torchext.record_routes() as found:
        result = call()
    return {choice.backend for choice in found}, result


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 1)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_values_strides_and_gradients_match_stock(library, name, frozen):
    ours, theirs, shapes, options = CALLS[name]
    tensors = [t.requires_grad_(i not in frozen) for i, t in enumerate(leaves(*shapes))]
    used, y = routes(lambda: ours(*tensors, *options))
    want = theirs(*tensors, *options)
    assert used == {"library"} and y.stride() == want.stride()
    torch.testing.assert_close(y, want, rtol=1e-3, atol=1e-3)
    dy, wanted = torch.randn_like(want), [t for t in tensors if t.requires_grad]
    for got, right in zip(torch.autograd.grad(y, wanted, dy), torch.autograd.grad(want, wanted, dy)):
        torch.testing.assert_close(got, right, rtol=1e-2, atol=1e-2)
        assert got.stride() == right.stride()


@pytest.mark.parametrize("name", CALLS)
def test_first_and_second_derivatives(library, name):
    ours, _, shapes, options = CALLS[name]
    library.setattr(_gpu_library, "_FLOATS", (torch.float64,))
    library.setattr(_gpu_library, "_PRODUCTS_FLOATS", (torch.float64,))
    tensors = leaves(*shapes, dtype=torch.float64)
    call = lambda *xwb: ours(*xwb, *options)
    if GPU and "conv" in name:
        pytest.skip("cuDNN has no such convolution in float64")
    assert routes(lambda: call(*tensors))[0] == {"library"}
    assert torch.autograd.gradcheck(call, tensors) and torch.autograd.gradgradcheck(call, tensors)


@pytest.mark.parametrize("name", CALLS)
def test_forward_alone_saves_nothing(library, name):
    ours, _, shapes, options = CALLS[name]
    with torch.no_grad():
        used, y = routes(lambda: ours(*leaves(*shapes), *options))
    assert used == {"library"} and y.grad_fn is None


@pytest.mark.skipif(not GPU, reason="needs cuDNN and cuBLAS")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CALLS)
def test_nan_and_infinity_propagate_as_in_stock(library, name, dtype):
    ours, theirs, shapes, options = CALLS[name]
    x, w, b = (t.detach() for t in leaves(*shapes, dtype=dtype))
    x.view(-1)[3], x.view(-1)[20] = float("nan"), float("inf")
    got, want = ours(x, w, b, *options), theirs(x, w, b, *options)
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.1, equal_nan=True)


def conv(x, w, b, **options):
    return lambda: F.conv2d_relu(x, w, b, **options)


AUTOCAST = "under autocast"
X, W, B = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3), torch.randn(4)
STOCKS = {
    "a stride of one": conv(X, W, B, stride=(2,)),
    "a padding of one": conv(X, W, B, padding=[1]),
    "without a bias": conv(X, W, None),
    "grouped": conv(X, W[:, :1], B, groups=4),
    "dilated": conv(X, W, B, dilation=2),
    "padding by name": conv(X, W, B, padding="same"),
    "one image": conv(X[0], W, B),
    "no image": conv(X[:0], W, B),
    "linear of 16 bits": lambda: F.linear_relu(
        X.bfloat16(), *(t.bfloat16() for t in (torch.randn(5, 6), torch.randn(5)))
    ),
    "float64": conv(X.double(), W.double(), B.double()),
    AUTOCAST: conv(X, W, B),
    "linear without a bias": lambda: F.linear_relu(X, torch.randn(5, 6)),
    "a row": lambda: F.linear_relu(torch.randn(6), torch.randn(5, 6), torch.randn(5)),
    "vmapped": lambda: torch.vmap(lambda x: F.linear_relu(x, torch.ones(5, 6), torch.ones(5)))(X[0]),
}


@pytest.mark.parametrize("name", STOCKS)
def test_unmeasured_calls_go_to_stock(gpu, monkeypatch, cudnn, name):
    cudnn(deterministic=False)
    for op in LIBRARY:
        route(monkeypatch, op, EVERY)
    monkeypatch.setattr(_gpu_library, "_convolution_relu", lambda *a: 1 / 0)
    monkeypatch.setattr(_gpu_library, "addmm_relu", lambda *a: 1 / 0)
    if name == AUTOCAST:  # which torch disables without a GPU
        monkeypatch.setattr(_gpu_library, "_is_autocast", lambda device: device == "cuda")
    assert routes(STOCKS[name])[0] == {"stock"}


def test_a_convolution_under_capture_is_cudnns_rectified_one_where_the_eager_calls_were_with_benchmark(library, cudnn):
    x, w, b = leaves((2, 3, 8, 7), (4, 3, 3, 3), (4,))
    call = lambda: routes(lambda: F.conv2d_relu(x, w, b))[0]
    route(library, "conv2d_relu", ({"captured": "no"}, 0, "library"))
    assert call() == {"library"}
    library.setattr(_gpu, "_is_capturing", lambda: True)
    for benchmark, backend in ((False, "stock"), (True, "library")):
        cudnn(deterministic=False, benchmark=benchmark)
        assert call() == {backend}
    assert routes(lambda: F.linear_relu(torch.randn(2, 3), torch.randn(4, 3), torch.randn(4)))[0] == {"library"}


def test_a_linear_without_relu_has_no_library_call_whatever_a_table_says(library):
    x, w, b = leaves((7, 5), (3, 5), (3,))
    used, y = routes(lambda: F.linear(x, w, b))
    assert used == {"stock"} and torch.equal(y, stock.linear(x, w, b)) and y.min() < 0


def test_where_the_library_finds_no_algorithm_stock_serves(library):
    def none(*arguments):
        raise RuntimeError("FIND was unable to find an engine to execute this computation")

    library.setattr(_gpu_library, "_convolution_relu", none)
    x, w, b = leaves((2, 3, 8, 7), (4, 3, 3, 3), (4,))
    for call in (lambda: F.conv2d_relu(x, w, b), lambda: F.conv2d_relu(x.detach(), w.detach(), b.detach())):
        used, y = routes(call)
        assert used == {"stock"}
        torch.testing.assert_close(y, relu_of_conv2d(x, w, b), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bias", ["b", 1.0, [1.0]])
def test_a_bias_that_is_not_a_tensor_raises_what_stock_raises(library, bias):
    for ours, theirs, tensors in (
        (F.linear_relu, relu_of_linear, leaves((7, 5), (3, 5))),
        (F.conv2d_relu, relu_of_conv2d, leaves((2, 3, 8, 7), (4, 3, 3, 3))),
    ):
        with pytest.raises(Exception) as expected:
            theirs(*tensors, bias)
        with pytest.raises(expected.type):
            ours(*tensors, bias)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_layer_goes_to_stock(library):
    x = torch.randn(2, 3, 8, 7)
    layer = torchext.nn.ConvReLU2d(3, 4, 3)
    with torch.no_grad():
        used, traced = routes(lambda: torch.jit.trace(layer, x))
    assert "stock" in used  # while tracing; the run that checks the trace is served as usual
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-3, atol=1e-3)


WRONG = {
    "stride 0": ((2, 4, 6, 6), (4, 4, 3, 3), (4,), {"stride": (1, 0)}),
    "negative padding": ((2, 4, 6, 6), (4, 4, 3, 3), (4,), {"padding": -1}),
    "twice the channels": ((2, 8, 6, 6), (4, 4, 3, 3), (4,), {}),
    "one bias for all": ((2, 4, 6, 6), (4, 4, 3, 3), (1,), {}),
    "a kernel too large": ((2, 4, 6, 6), (4, 4, 7, 7), (4,), {"stride": 2}),
}


@pytest.mark.parametrize("name", WRONG)
def test_cudnn_never_sees_a_wrong_shape(library, name):
    library.setattr(_gpu_library, "_convolution_relu", lambda *a: pytest.fail("reached cuDNN"))
    *shapes, options = WRONG[name]
    with pytest.raises(RuntimeError):
        F.conv2d_relu(*map(torch.randn, shapes), **options)


def test_deterministic_mode_goes_to_stock(library, cudnn):
    cudnn(deterministic=True)
    x, w, b = leaves((2, 3, 8, 7), (4, 3, 3, 3), (4,))
    assert routes(lambda: F.conv2d_relu(x, w, b))[0] == {"stock"}


def test_the_table_decides_with_and_without_gradient(library):
    x, w, b = leaves((8, 4), (4, 4), (4,))
    without, gradient = {"gradient": "no"}, {"gradient": "yes", "bytes": "4 or 8"}
    route(library, "linear_relu", (without, 0, "library"), (gradient, 129, "library"), ({"bytes": "2"}, 0, "library"))
    assert routes(lambda: F.linear_relu(x, w, b))[0] == {"stock"}
    assert routes(lambda: F.linear_relu(*(t.detach() for t in (x, w, b))))[0] == {"library"}
    route(library, "linear_relu", (gradient, 128, "library"), ({"bytes": "2"}, ANY, "library"))
    assert routes(lambda: F.linear_relu(x, w, b))[0] == {"library"}


def test_wrong_shapes_raise_stocks_error(library):
    with pytest.raises(RuntimeError, match="linear_relu: expected"):
        F.linear_relu(torch.randn(3, 4), torch.randn(2, 5), torch.randn(2))
    with pytest.raises(RuntimeError, match="conv2d_relu: expected"):
        F.conv2d_relu(torch.randn(1, 3, 5, 5), torch.randn(2, 4, 3, 3), torch.randn(2))
