"""PyTorch's own test databases: every sample and error input of our ops, run against our namespace.

Each sample runs on ours and on stock; results, gradients, strides and exception types must agree, and the dispatcher's
trace must show our kernel exactly where the route claims it.
"""

import functools

import pytest
import torch
from torch import nn as stock_nn
from torch.nn import functional as stock_F

import torchext
from torchext import nn
from torchext.nn import functional as F

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

DTYPES = (torch.float32, torch.float64)
RANDOM = ("dropout", "dropout2d")
FUNCTIONS = ("linear", "conv2d", "max_pool2d", "cross_entropy", *RANDOM)
MODULES = ("Linear", "Conv2d", "MaxPool2d", "CrossEntropyLoss")

OP_INFOS = {
    info.name.removeprefix("nn.functional."): info
    for info in op_db
    if info.name.startswith("nn.functional.") and not info.variant_test_name
}
MODULE_INFOS = {info.module_cls.__name__: info for info in module_db}
FUNCTIONS += ("linear_cross_entropy",) if "linear_cross_entropy" in OP_INFOS else ()  # torch has it from 2.13 on
MODULES += ("LinearCrossEntropyLoss",) if "LinearCrossEntropyLoss" in MODULE_INFOS else ()


@pytest.fixture(autouse=True, params=["native", "auto"])
def backend(request):
    with torchext.backend(request.param):
        yield request.param


def tensors(tree):
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def run(function, inputs, parameters, trace):
    """Results, gradients and the ops the dispatcher ran; or the exception."""
    with trace() as ops:
        results = tensors(function())
        wanted = [t for t in (*inputs, *parameters) if t.requires_grad]
        loss = sum(r.sum() for r in results if r.requires_grad)
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True) if isinstance(loss, torch.Tensor) else ()
    return results, gradients, ops


def assert_agree(name, ours, stock, routes):
    for kind, (actual, expected) in {"results": (ours[0], stock[0]), "gradients": (ours[1], stock[1])}.items():
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            if e is None or a is None:
                assert a is None or not a.any(), f"{name}: a gradient stock does not give"
                assert e is None or not e.any(), f"{name}: no gradient where stock gives one"
                continue
            torch.testing.assert_close(a, e, equal_nan=True, msg=lambda m, kind=kind: f"{name}, {kind}: {m}")
            if kind == "results":
                assert a.stride() == e.stride(), f"{name}: strides {a.stride()}, stock's {e.stride()}"
    claimed = any(route.backend == "native" for route in routes)
    ran = any(op.startswith("torchext.") for op in ours[2])
    assert claimed == ran, f"{name}: the route says {routes}, the dispatcher ran {ours[2]}"
    return ran


def samples_of(info, dtype):
    """Fresh samples at each call: ours and stock get equal but separate inputs."""
    for kind in ("sample_inputs", "reference_inputs"):
        torch.manual_seed(0)
        yield from getattr(info, kind)("cpu", dtype, requires_grad=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in RANDOM])
def test_every_sample_of_the_function(name, dtype, trace, backend):
    ours, stock = getattr(F, name), getattr(stock_F, name)
    count = native = 0
    for one, other in zip(samples_of(OP_INFOS[name], dtype), samples_of(OP_INFOS[name], dtype)):
        with torchext.record_routes() as routes:
            got = run(
                lambda s=one: ours(s.input, *s.args, **s.kwargs), tensors((one.input, one.args, one.kwargs)), [], trace
            )
        want = run(
            lambda s=other: stock(s.input, *s.args, **s.kwargs),
            tensors((other.input, other.args, other.kwargs)),
            [],
            trace,
        )
        native += assert_agree(f"{name}{one}", got, want, routes)
        count += 1
    assert count >= 10
    assert native >= count // 2 or backend == "auto", f"{name}: our kernel served {native} of {count} samples"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANDOM)
def test_every_sample_of_the_dropouts(name, dtype, trace, backend):
    """Random results: kept elements are scaled exactly, dropped ones zero, and backward uses the same mask."""
    count = native = 0
    for sample in samples_of(OP_INFOS[name], dtype):
        p, training = sample.kwargs.get("p", 0.5), sample.kwargs.get("training", True)
        x = sample.input
        kwargs = sample.kwargs | {"inplace": False}
        with torchext.record_routes() as routes:
            function = functools.partial(getattr(F, name), x, *sample.args, **kwargs)
            results, gradients, ops = run(function, [x], [], trace)
        (y,), (dx,) = results, gradients
        scale = 1.0 if not training or p == 0 else 0.0 if p == 1 else 1 / (1 - p)
        kept = dx != 0
        torch.testing.assert_close(y, torch.where(kept, x * scale, 0))
        torch.testing.assert_close(dx, torch.where(kept, scale, 0.0).to(dtype))
        assert kept.all() if scale == 1.0 else True
        assert any(r.backend == "native" for r in routes) == any(op.startswith("torchext.") for op in ops)
        native += any(op.startswith("torchext.") for op in ops)
        count += 1
    assert count >= 4 and (native >= 1 or backend == "auto")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_error_input_of_the_function(name):
    info = OP_INFOS[name]
    if info.error_inputs_func is None:
        pytest.skip("the database has no error inputs for it")
    for error in info.error_inputs(torch.device("cpu")):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            getattr(F, name)(sample.input, *sample.args, **sample.kwargs)


def module_runs(info, cls, dtype, training, trace):
    torch.manual_seed(0)
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        torch.manual_seed(1)
        module = cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(dtype)
        module.train(training)
        args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
        with torchext.record_routes() as routes:
            yield (
                f"{cls.__name__}{sample.constructor_input.args}{sample.constructor_input.kwargs}",
                run(functools.partial(module, *args, **kwargs), tensors((args, kwargs)), [*module.parameters()], trace),
                routes,
                repr(module),
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
def test_every_sample_of_the_module(name, dtype, trace, backend):
    info = MODULE_INFOS[name]
    count = native = 0
    for training in (True, False):
        for ours, stock in zip(
            module_runs(info, getattr(nn, name), dtype, training, trace),
            module_runs(info, getattr(stock_nn, name), dtype, training, trace),
        ):
            native += assert_agree(ours[0], ours[1], stock[1], ours[2])
            assert ours[3] == stock[3]
            count += 1
    served = native >= count // 2 or backend == "auto"
    assert count >= 4 and served, f"{name}: our kernel served {native} of {count} samples"


@pytest.mark.parametrize("name", MODULES)
def test_every_error_input_of_the_module(name):
    info = MODULE_INFOS[name]
    if info.module_error_inputs_func is None:
        pytest.skip("the database has no error inputs for it")
    for error in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
    ):
        sample = error.module_error_input
        with pytest.raises(error.error_type, match=error.error_regex):
            module = getattr(nn, name)(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module(*sample.forward_input.args, **sample.forward_input.kwargs)
