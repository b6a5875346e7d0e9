"""linear_cross_entropy against the unfused path and float64: shapes, chunks, options, edges, and its memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_cross_entropy_cases import REDUCTIONS, both, targets, unfused

import torchext
from torchext.nn import functional as F


def leaves(case, n, k, c, places=(), bias=True):
    inputs = [case.leaf(n, k), case.leaf(c, *places, k)]
    return inputs + ([case.leaf(c, *places)] if bias else [])


# Chunks of 3 split 7 rows into 3, 3 and 1; None is one chunk of all rows.
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    "n, k, c, places", [(7, 5, 3, ()), (7, 24, 70, ()), (1, 1, 1, ()), (7, 3, 5, (2,)), (4, 3, 40, (3, 2))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_match_the_unfused_path_judged_by_float64(case, n, k, c, places, bias, chunk):
    for reduction in REDUCTIONS:
        ours, stock = both(targets(n, c, places), chunk=chunk, reduction=reduction)
        case.assert_same_as_stock(ours, stock, leaves(case, n, k, c, places, bias))


@pytest.mark.parametrize("probable", [False, True])
@pytest.mark.parametrize("places", [(), (3,)])
@pytest.mark.parametrize(
    "options", [{"weight": True}, {"label_smoothing": 0.1}, {"weight": True, "label_smoothing": 0.3}]
)
def test_weights_smoothing_and_probabilities(case, places, probable, options):
    options = options | {"weight": torch.rand(6, dtype=torch.float64) if "weight" in options else None}
    for reduction in REDUCTIONS:
        ours, stock = both(targets(5, 6, places, probable), chunk=2, reduction=reduction, **options)
        case.assert_same_as_stock(ours, stock, leaves(case, 5, 4, 6, places))


def test_many_chunks_add_up(case):
    target = targets(40, 33)
    case.assert_same_as_stock(*both(target, chunk=1, reduction="sum"), leaves(case, 40, 9, 33))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n, k", [(0, 3), (4, 0), (0, 0)])
def test_empty_sizes(case, n, k, reduction):
    case.assert_same_as_stock(*both(targets(n, 5), reduction=reduction), leaves(case, n, k, 5))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_targets_ignored(case, reduction):
    target = torch.full((4,), 2)
    ours, stock = both(target, reduction=reduction, ignore_index=2, chunk=3)
    case.assert_same_as_stock(ours, stock, leaves(case, 4, 3, 5))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mean_over_targets_of_no_weight_is_nan(case, reduction):
    weight = torch.tensor([0.3, 0.0, 1.0, 0.5, 0.7], dtype=torch.float64)
    pair = both(torch.ones(4, dtype=torch.int64), weight, chunk=3, reduction=reduction, label_smoothing=0.3)
    inputs = leaves(case, 4, 3, 5)
    case.assert_same_as_stock(*pair, inputs)
    assert pair[0](*inputs).isnan().any() == (reduction == "mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("probable", [False, True])
def test_one_row_without_batch_dimension(case, reduction, probable):
    x, w, b = case.leaf(1, 4), case.leaf(5, 4), case.leaf(5)
    target = targets(1, 5, probable=probable)
    loss = both(target, reduction=reduction)[0](x, w, b)
    row = both(target[0], reduction=reduction)[0](x[0], w, b)
    assert row.shape == () and torch.equal(row, loss.view(()))
    for got, want in zip(*(torch.autograd.grad(f.sum(), (x, w, b)) for f in (row, loss))):
        assert torch.equal(got, want)


LAYOUTS = {
    "transposed": lambda t: t.t().contiguous().t(),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:, :1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_the_inputs(case, layout):
    x, w = (layout(case.tensor(25, 42)).detach().requires_grad_() for _ in range(2))
    target = targets(25, 25).repeat_interleave(2)[::2]
    for reduction in REDUCTIONS:
        case.assert_same_as_stock(*both(target, reduction=reduction, chunk=16), [x, w, case.leaf(25)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_propagate(case, value):
    x, w = case.tensor(5, 4), torch.ones(6, 4, dtype=case.dtype)
    x[1, 2] = value
    results = []
    for function in both(torch.arange(5), chunk=2):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for ours, stock in zip(*results):
        assert torch.equal(ours.isnan(), stock.isnan()) and torch.equal(ours.isinf(), stock.isinf())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_reaches_all_of_probabilities(case, value, smoothing):
    """As every gradient on a GPU does, it scales by tensors: of smoothed probabilities none is kept."""
    x, w, target = case.tensor(5, 4), case.tensor(6, 4), case.tensor(5, 6).softmax(1)
    for function in both(target, chunk=2, label_smoothing=smoothing):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        gradients = torch.autograd.grad(function(*leaves), leaves, torch.tensor(value, dtype=case.dtype))
        assert not any(g.isfinite().any() for g in gradients)


def test_confident_logits(case):
    x, w = case.tensor(6, 8, scale=30).requires_grad_(), case.tensor(10, 8, scale=3).requires_grad_()
    case.assert_same_as_stock(*both(targets(6, 10), chunk=4), [x, w])


@given(
    n=st.integers(0, 12), k=st.integers(1, 9), c=st.integers(1, 40), places=st.sampled_from([(), (2,), (2, 3)]),
    chunk=st.sampled_from([None, 1, 4, 5]), reduction=st.sampled_from(REDUCTIONS), probable=st.booleans(),
    weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.2]),
    grads=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip
def test_any_shape_any_options_and_any_subset_of_gradients(
    n, k, c, places, chunk, reduction, probable, weighted, smoothing, grads
):
    torch.manual_seed(n * 5041 + k * 71 + c)
    inputs = [torch.randn(*s, dtype=torch.float64) for s in ((n, k), (c, *places, k), (c, *places))]
    inputs = [t.requires_grad_(g) for t, g in zip(inputs, grads)]
    weight = torch.rand(c, dtype=torch.float64) if weighted else None
    ours, stock = both(targets(n, c, places, probable), weight, chunk, reduction=reduction, label_smoothing=smoothing)
    loss, want = ours(*inputs), stock(*inputs)
    torch.testing.assert_close(loss, want, equal_nan=True)
    assert loss.requires_grad == want.requires_grad and loss.stride() == want.stride()
    wanted = [t for t in inputs if t.requires_grad]
    if wanted:
        dloss = torch.randn_like(loss)
        got, expected = (torch.autograd.grad(f, wanted, dloss) for f in (loss, want))
        torch.testing.assert_close(got, expected, equal_nan=True)


# Sizes whose chunk is chosen by our rule: 32 MiB are 208 rows of 40000 classes, so 500 rows are three chunks.
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_chunks_of_the_size_chosen(reduction):
    inputs = [torch.randn(*s, requires_grad=True) for s in ((500, 4), (40000, 4), (40000,))]
    ours, stock = both(targets(500, 40000), reduction=reduction)
    loss, want = ours(*inputs), stock(*inputs)
    torch.testing.assert_close(loss, want)
    got, expected = (torch.autograd.grad(f.sum(), inputs) for f in (loss, want))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def peak_bytes(function):
    """The most bytes torch's CPU allocator held at once, above those at the start; every allocation is counted."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_peak_is_the_results_and_one_chunk(reduction):
    n, k, c = 2048, 128, 16000
    x, w, target = torch.randn(n, k, requires_grad=True), torch.randn(c, k, requires_grad=True), targets(n, c)

    def measured(function):
        x.grad = w.grad = None
        return peak_bytes(lambda: function(x, w).sum().backward())

    ours, stock = (measured(f) for f in both(target, reduction=reduction))
    results, chunk = 4 * (n * k + c * k), 32 << 20
    assert results + chunk * 0.9 < ours < 1.05 * (results + chunk)
    assert ours < 0.15 * stock, f"{ours} bytes, the unfused path's {stock}"
    if reduction == "mean":  # the gradient is kept for a second backward: one more copy of the results
        kept = peak_bytes(lambda: F.linear_cross_entropy(x, w, target).backward(retain_graph=True))
        assert kept < 1.05 * (2 * results + chunk)


def test_gradients_are_made_only_where_wanted():
    x, w, target = torch.randn(64, 8), torch.randn(1000, 8), targets(64, 1000)
    with torch.no_grad():
        peak = peak_bytes(lambda: F.linear_cross_entropy(x, w, target))
    assert peak < 1.05 * 64 * 1000 * 4


def test_routes_are_recorded():
    x, w, target = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 4, 1, 1])
    with torchext.record_routes() as routes:
        F.linear_cross_entropy(x, w, target)
        with torchext.backend("stock"):
            F.linear_cross_entropy(x, w, target)
        F.linear_cross_entropy(x, w, target.byte())
        F.linear_cross_entropy(x, w, torch.rand(4, 5, requires_grad=True)).backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.linear_cross_entropy(x, w, target)
            torch.testing.assert_close(loss, unfused(x, w, None, target))
    assert [(r.op, r.backend) for r in routes] == [("linear_cross_entropy", b) for b in ("native", *["stock"] * 4)]
    assert "gradient" in routes[3].why and "autocast" in routes[4].why
