"""torch.compile(backend="torchext") fuses consecutive calls and moves none of them past what lies between."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

import torchext


def linear(x, w, b):
    return F.linear(x.flatten(1), w.flatten(1), b)


def conv(x, w, b):
    return F.conv2d(x, w, b, padding=1)


def norm(x, w, b):
    return F.batch_norm(x, None, None, w.sum((1, 2, 3)), b, training=True)


def relu(h, *_):
    return F.relu(h)


def pool(h, *_):
    return F.max_pool2d(h, 2)


CHAINS = {
    "linear_relu": (linear, relu),
    "conv2d_relu": (conv, relu),
    "conv2d_relu_max_pool2d": (conv, relu, pool),
    "batch_norm_relu_max_pool2d": (norm, relu, pool),
}
STEPS = [(chain, step) for chain, stages in CHAINS.items() for step in range(1, len(stages))]


def doubled(t):
    """Values only: an index of a winner would point outside its window, with stock's pooling too."""
    return 2 * t if t.is_floating_point() else t


# What a program does between two steps of a chain: to the input, the filters, and the last result.
EDITS = {
    "the input changes": lambda x, w, h: (x.mul_(3), h)[1],
    "the filters change": lambda x, w, h: (w.mul_(3), h)[1],
    "the result changes": lambda x, w, h: h.sub_(0.5),
    "a view of the result changes": lambda x, w, h: (h[0].sub_(0.5), h)[1],
}
USES = {
    "a view of it is kept": lambda x, w, h: (h, h[0]),
    "it is returned too": lambda x, w, h: (h, h),
    "its values are kept": lambda x, w, h: (h, h.detach()),
    "its gradient changes": lambda x, w, h: (h.register_hook(lambda g: 2 * g), h)[1],
    "its gradient stops": lambda x, w, h: h.detach(),
    "it turns to another dtype": lambda x, w, h: h.double(),
}

# Blocks that hold the first steps of a chain but not the last, or only the last.
BLOCKS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "saved_tensors_hooks": lambda: torch.autograd.graph.saved_tensors_hooks(doubled, lambda t: t),
}


def with_between(stages, step, between):
    def program(x, w, b):
        x, w, h, kept = x * 1, w * 1, None, ()
        for count, stage in enumerate(stages):
            h = stage(x if h is None else h, w, b)
            if count + 1 == step:
                h = between(x, w, h)
                h, *kept = h if isinstance(h, tuple) else (h,)
        return h, *kept

    return program


def with_block(stages, step, block, first):
    """The first `step` stages run in the block and the others outside it, or the other way round."""

    def program(x, w, b):
        x = x * 1
        with block() if first else contextlib.nullcontext():
            h = stages[0](x, w, b)
            for stage in stages[1:step]:
                h = stage(h)
        with contextlib.nullcontext() if first else block():
            for stage in stages[step:]:
                h = stage(h)
        return (h,)

    return program


def outcome(program, chain):
    """What the program returns, whether that requires a gradient, and the inputs' gradients; or its error."""
    torch.manual_seed(0)
    side = 3 if chain == "linear_relu" else 8
    inputs = [torch.randn(s).requires_grad_() for s in ((4, 2, side, side), (2, 2, 3, 3), (2,))]
    try:
        results = program(*inputs)
        told = [(r.detach().clone(), r.requires_grad) for r in results]
        if any(r.requires_grad for r in results):
            sum(r.double().square().sum() for r in results if r.requires_grad).backward()
    except RuntimeError as error:
        return type(error)
    return told, [t.grad for t in inputs]


def assert_same(program, chain):
    """Compares with stock and returns the ops that ran."""
    torch._dynamo.reset()
    with torchext.backend("native"), torchext.record_routes() as routes:
        got = outcome(torch.compile(program, backend="torchext"), chain)
    want = outcome(program, chain)
    if isinstance(want, type):
        assert got is want
    else:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    return [route.op for route in routes]


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("chain, step", STEPS)
def test_nothing_is_moved_past_an_edit(chain, step, kind):
    program = with_between(CHAINS[chain], step, EDITS[kind])
    assert chain not in assert_same(program, chain)
    assert chain not in assert_same(torch.no_grad()(program), chain)


@pytest.mark.parametrize("kind", USES)
@pytest.mark.parametrize("chain, step", STEPS)
def test_a_result_with_another_use_is_not_fused(chain, step, kind):
    assert chain not in assert_same(with_between(CHAINS[chain], step, USES[kind]), chain)


@pytest.mark.parametrize("first", [True, False], ids=["the first steps inside", "the last steps inside"])
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("chain, step", STEPS)
def test_nothing_moves_into_a_block_or_out_of_it(chain, step, kind, first):
    assert chain not in assert_same(with_block(CHAINS[chain], step, BLOCKS[kind], first), chain)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_inside_a_block_matches_stock(chain, kind):
    assert_same(with_block(CHAINS[chain], len(CHAINS[chain]), BLOCKS[kind], True), chain)


@pytest.mark.parametrize("chain", CHAINS)
def test_consecutive_calls_are_fused(chain):
    stages = CHAINS[chain]
    assert assert_same(with_block(stages, len(stages), contextlib.nullcontext, True), chain) == [chain]
