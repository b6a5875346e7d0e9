"""max_pool2d against stock: forward rounds nothing, so values, indices and strides match to the bit."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from max_pool2d_cases import EXACT, INF, LAYOUTS, NAN, WINDOWS, channels_last, stock_pool

import torchext
from torchext.nn import functional as F


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Stock wakes every thread even for the smallest map: minutes over all these tests on a busy machine."""
    threads(1)


def stock_gradient(x, window, dy):
    """Computed on the CPU: on a GPU stock may add in any order."""
    leaf = x.detach().cpu().requires_grad_()
    return torch.autograd.grad(stock_pool(leaf, *window)[0], leaf, dy.to("cpu", x.dtype))[0].to(x.device)


def judge(x):
    """What stock pools for comparison: its channels_last CUDA kernel gives index 0 where a window is all -inf."""
    return x.contiguous() if x.is_cuda and (x == -INF).any() else x


def assert_same_as_stock(x, window, dy_layout=lambda t: t):
    """Values, indices and all strides exactly; gradients exactly where stock adds in the type we add in."""
    results, judged = [], judge(x)
    runs = [(stock_pool, x), (F.max_pool2d_with_indices, x)] + ([] if judged is x else [(stock_pool, judged)])
    for pool, image in runs:
        leaf = image.detach().requires_grad_()
        y, indices = pool(leaf, *window)
        if not results:
            dy = dy_layout(torch.randn(y.shape, dtype=torch.float64).to(x.dtype))
        (dx,) = torch.autograd.grad(y, leaf, dy)
        results.append((y.detach(), indices, dx))
    (y, indices, dx), (our_y, our_indices, our_dx) = results[0 if judged is x else 2], results[1]
    torch.testing.assert_close(our_y, y, **EXACT)
    assert torch.equal(our_indices, indices)
    assert [t.stride() for t in results[0]] == [t.stride() for t in results[1]]
    if x.dtype in (torch.float32, torch.float64):
        dx = stock_gradient(x, window, dy) if x.is_cuda else dx
        torch.testing.assert_close(our_dx, dx, **EXACT)
    else:  # stock rounds after every addition, we once
        exact_dx = stock_gradient(x.double(), window, dy)
        torch.testing.assert_close(our_dx, exact_dx.to(x.dtype), **EXACT)


@pytest.mark.native
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_values_indices_gradients_and_strides_match_stock(case, window, layout):
    for shape in ((2, 3, 13, 17), (1, 37, 15, 40)):
        assert_same_as_stock(LAYOUTS[layout](case.tensor(*shape)), window, LAYOUTS[layout])


@pytest.mark.parametrize("dy_layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_input_and_gradient(layout, dy_layout):
    for window in WINDOWS[:4]:
        assert_same_as_stock(layout(torch.randn(2, 6, 14, 12)), window, dy_layout)


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 5, 1, 1), (1, 1, 1, 1), (3, 4, 1, 9), (2, 3, 7, 1), (0, 3, 8, 8)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("window", [(1, 1), ((1, 1), 2, 0, 1, True), (3, 2, 1)], ids=str)
def test_sizes_whose_memory_format_is_ambiguous(shape, layout, window):
    x = LAYOUTS[layout](torch.randn(shape))
    assert_same_as_stock(x, window)
    for view in (x[..., : shape[3] // 2 + 1], torch.randn(200).as_strided(shape, (shape[1],) * 4)):
        assert_same_as_stock(view, window)


@pytest.mark.native
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_no_batch(case, window):
    assert_same_as_stock(case.tensor(3, 11, 19), window)
    assert_same_as_stock(case.tensor(3, 11, 38)[..., ::2], window)


@given(data=st.data(), kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_any_window_on_any_map(isa, data, kernel):
    draw = data.draw
    two = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))
    stride, dilation = two(1, 5), two(1, 3)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil, (h, w), c = draw(st.booleans()), two(1, 40), draw(st.integers(1, 3 if isa == "triton" else 20))
    effective = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    assume(h + 2 * padding[0] >= effective[0] and w + 2 * padding[1] >= effective[1])
    # Stock writes out of bounds backward where a window has no tap inside: see below.
    assume(not any(d > 1 and p and n <= d * k for d, p, n, k in zip(dilation, padding, (h, w), kernel)))
    torch.manual_seed(h * 41 + w)
    x = torch.randn(2, c, h, w)
    x = (x * draw(st.sampled_from([1, 3]))).round() if draw(st.booleans()) else x  # ties
    for layout in (lambda t: t, channels_last):
        assert_same_as_stock(layout(x), (kernel, stride, padding, dilation, ceil), layout)


def test_every_width(isa):
    for w in range(3, 68, 7 if isa == "triton" else 1):  # interpreted, a launch takes 12 ms
        for window in WINDOWS[w % 3 : 6 : 3]:
            assert_same_as_stock(torch.randn(2, 1, 4, w), window)
            assert_same_as_stock(channels_last(torch.randn(1, w, 4, 3)), window)
        assert_same_as_stock(torch.randn(3, 1, 4, w // 2 * 2), WINDOWS[0])


@pytest.mark.native
def test_many_short_rows_and_one_large_plane(case):
    large = (120, 130) if case.isa == "triton" else (300, 402)
    for shape in ((64, 3, 4, 2), (33, 2, 8, 8), (7, 6, 24, 24), (1, 1, *large)):
        for window in WINDOWS[:4]:
            assert_same_as_stock(case.tensor(*shape), window)


@pytest.mark.native
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_nan_infinity_and_ties_win_as_in_stock(case, window, layout):
    values = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, 1.0])
    for weights in (torch.ones(8), torch.tensor([1.0, 0, 9, 9, 9, 9, 9, 9]), torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 0])):
        x = values[torch.multinomial(weights, 4 * 5 * 23 * 34, replacement=True)].view(4, 5, 23, 34).to(case.dtype)
        assert_same_as_stock(LAYOUTS[layout](x), window)
        if window[0] == 2:
            assert_same_as_stock(LAYOUTS[layout](x[..., :22, :].contiguous()), window)


def test_one_nan_at_each_place(isa):
    for window, layout in itertools.product(((2,), (3, 2, 1), (3, 1, 1)), ("contiguous", "channels_last")):
        x = torch.randn(36, 2, 6, 6)
        x.flatten(2)[torch.arange(36), :, torch.arange(36)] = NAN
        assert_same_as_stock(LAYOUTS[layout](x), window)


@pytest.mark.native
def test_a_window_without_a_tap_inside_passes_no_gradient(isa):
    """Stock gives -inf and an index beyond the map, and its backward writes there; ours writes nothing."""
    for x in (torch.randn(1, 2, 4, 3), torch.randn(9, 2, 4, 3), channels_last(torch.randn(1, 2, 4, 3))):
        window = ((2, 1), 1, (1, 0), (5, 1))
        y, indices = F.max_pool2d_with_indices(x.requires_grad_(), *window)
        want, want_indices = stock_pool(x.detach().contiguous(), *window)  # channels_last it gives 0 on CUDA: judge()
        assert torch.equal(y, want) and torch.equal(indices, want_indices) and (indices >= 12).all()
        for create_graph in (False, True):
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=create_graph, retain_graph=True)
            assert (dx == 0).all()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "k, stride, pad, out", [(2, 2, 0, 6), (2, 2, 1, 7), (3, 2, 1, 6), (3, 1, 1, 12), (3, 3, 0, 4), (5, 3, 2, 4)]
)
def test_dead_outputs_pass_no_gradient(case, last, k, stride, pad, out):
    """Offset 255 marks outputs that are 0 after ReLU in the ops that fuse the two."""
    dead = torch.full((6, 3, out, out), 255, dtype=torch.uint8)
    window = (k, k, stride, stride, pad, pad, 1, 1)
    backward = getattr(torch.ops.torchext.max_pool2d_backward, case.overload)
    dx = backward(case.tensor(6, 3, out, out), dead, last, 12, 12, *window)
    assert dx.shape == (6, 3, 12, 12) and (dx == 0).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("window", WINDOWS[:7], ids=str)
def test_gradcheck_and_gradgradcheck(isa, window, layout):
    shape = (1, 2, 4, 5) if isa == "triton" else (2, 2, 6, 7)  # hundreds of launches, interpreted
    x = torch.randperm(math.prod(shape)).double().view(shape)
    x = LAYOUTS[layout](x).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.max_pool2d(x, *window), x)
    assert torch.autograd.gradgradcheck(lambda x: F.max_pool2d(x, *window), x)
    x = x.detach()[0].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: F.max_pool2d_with_indices(x, *window)[0], x)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(isa, threads, window):
    if isa == "triton":
        pytest.skip("Triton's interpreter has one thread")
    for x in (torch.randn(8, 12, 72, 24), channels_last(torch.randn(3, 24, 67, 65)), torch.randn(1, 1, 600, 602)):
        results = []
        for count in (1, 2, 5):
            threads(count)
            leaf = x.detach().requires_grad_()
            y, indices = F.max_pool2d_with_indices(leaf, *window)
            results.append((y, indices, *torch.autograd.grad(y.square().sum(), leaf)))
        assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@pytest.mark.native
def test_255_taps_are_ours(isa):
    with torchext.record_routes() as routes:
        assert_same_as_stock(torch.randn(1, 2, 20, 40), ((15, 17), 1))
    assert [r.backend for r in routes] == [isa if isa in ("simt", "triton") else "native"]
