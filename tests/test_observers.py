"""Nothing observable changes: every fused chain, in every style, under every observer, beside stock."""

import numpy as np
import pytest
import torch
from observers import OBSERVERS
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

CHAINS = {  # the layer, made by either library; the input; whether a pooling follows
    "linear": (lambda nn: nn.Linear(24, 32), (48, 24), False),
    "conv2d": (lambda nn: nn.Conv2d(1, 6, 5), (16, 1, 16, 16), False),
    "conv2d, pool": (lambda nn: nn.Conv2d(1, 6, 5), (16, 1, 16, 16), True),
    "conv2d by Winograd, pool": (lambda nn: nn.Conv2d(16, 32, 3, padding=1), (16, 16, 10, 10), True),
    "batch norm, pool": (lambda nn: nn.BatchNorm2d(4), (16, 4, 12, 12), True),
}


def nested(nn, F, first, pool):
    if pool:
        last = nn.MaxPool2d(2)
        return {"first": first, "pool": last}, lambda x: last(F.relu(first(x)))
    return {"first": first}, lambda x: F.relu(first(x))


def two_statements(nn, F, first, pool):
    def forward(x):
        h = first(x)
        r = F.relu(h)
        return F.max_pool2d(r, 2) if pool else r

    return {"first": first}, forward


def sequential(nn, F, first, pool):
    model = nn.Sequential(first, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))
    return dict(model.named_children()), model


def accelerated(module, F, first, pool):
    layers, model = sequential(torch.nn, F, first, pool)
    return layers, torchext.accelerate(model) if module is nn else model


def compiled(module, F, first, pool):
    """Stock's is compiled too: Dynamo decides what stays visible in a compiled model."""
    layers, model = two_statements(module, F, first, pool)
    torch._dynamo.reset()
    return layers, torch.compile(model, backend="torchext" if module is nn else "eager")


STYLES = {"nested": nested, "two statements": two_statements, "Sequential": sequential, "accelerated": accelerated}


def observed(observer, style, make, shape, pool, nn, F):
    torch.manual_seed(0)
    first = make(torch.nn if style is accelerated else nn)
    layers, model = style(nn, F, first, pool)
    x = torch.randn(shape)
    try:
        return observer(layers, lambda: model(x).square().mean())
    except Exception as error:
        return type(error)


def assert_same(got, want):
    if isinstance(want, (list, tuple)) and not isinstance(want, torch.Size):
        assert isinstance(got, (list, tuple)) and len(got) == len(want), (got, want)
        for a, b in zip(got, want):
            assert_same(a, b)
    elif isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
    elif isinstance(want, np.ndarray):
        torch.testing.assert_close(torch.from_numpy(got), torch.from_numpy(want), rtol=1e-3, atol=1e-5)
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-4)
    else:
        assert got == want


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["native", "auto"])
@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_an_observer_sees_what_it_sees_in_stock(chain, style, observer, backend):
    with torchext.backend(backend):
        got = observed(observer, style, *chain, nn, F)
    assert_same(got, observed(observer, style, *chain, torch.nn, stock_F))


COMPILED = (
    *(f"forward hook: {see}" for see in ("the output", "its detached alias", "another output", "a hook that scales")),
    *("forward pre-hook", "full backward hook", "grad to the middle", "hooks on saved tensors", "checkpoint"),
    *("anomaly mode", "function mode", "dispatch mode", "threads", "no_grad", "inference mode", "patched class"),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("observer", COMPILED)
@pytest.mark.parametrize("chain", ["linear", "conv2d, pool"])
def test_an_observer_of_a_compiled_model_sees_what_it_sees_in_stock(chain, observer):
    observer = OBSERVERS[observer]
    got = observed(observer, compiled, *CHAINS[chain], nn, F)
    assert_same(got, observed(observer, compiled, *CHAINS[chain], torch.nn, stock_F))


def message_of_nan(nn):
    """Backward's first NaN is the filter's gradient: 0 from the ReLU, times an infinite input."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(24, 32), nn.ReLU()), torch.randn(48, 24)
    with torch.no_grad():
        model[0].weight[:, 0] = 1
    x[0, 0] = -float("inf")
    with torch.autograd.detect_anomaly(check_nan=True), pytest.raises(RuntimeError) as error:
        model(x).sum().backward()
    return str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_anomaly_detection_names_stocks_function():
    assert message_of_nan(nn) == message_of_nan(torch.nn) and "AddmmBackward0" in message_of_nan(nn)
