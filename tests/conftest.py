"""The one matrix all ops are tested on: instruction set or GPU kernel x dtype; and what a case can make and judge."""

import copy
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchext
from torchext import _route

hypothesis.settings.register_profile(
    "torchext", derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("torchext")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ISAS = torchext._C.cpu_isas() if torchext._C else []
CUDA = {path.stem for path in (Path(__file__).parent.parent / "csrc/cuda").glob("*.cu")}


def pytest_configure():
    assert torchext._C is not None, "torchext._C is not built: run `make build`"
    torch.set_num_threads(1)  # tests run side by side; those about threads ask for more


@dataclass
class Case:
    """One cell of the matrix: makes tensors of its dtype and judges results against float64."""

    isa: str
    dtype: torch.dtype

    @property
    def overload(self):
        """Of our ops: what must have run."""
        return "simt" if self.isa == "simt" else "default"

    def tensor(self, *shape, scale=1.0):
        return (torch.randn(*shape, dtype=torch.float64) * scale).to(self.dtype)

    def leaf(self, *shape, scale=1.0):
        return self.tensor(*shape, scale=scale).requires_grad_()

    def assert_close(self, actual, stock, exact, factor=2.0):
        """Our distance from the float64 result: at most `factor` times stock's own in this dtype, plus two roundings.

        In float64 the reference is no more exact than we are: 64 roundings.
        """
        assert actual.dtype == stock.dtype and actual.shape == stock.shape
        finite = exact.isfinite()
        torch.testing.assert_close(actual.double()[~finite], exact.double()[~finite], equal_nan=True)
        actual, stock, exact = (t.detach().double()[finite] for t in (actual, stock, exact))
        if exact.numel() == 0:
            return
        ours, theirs = (actual - exact).abs().max(), (stock - exact).abs().max()
        roundings = 64 if self.dtype == torch.float64 else 2
        allowed = factor * theirs + roundings * torch.finfo(self.dtype).eps * exact.abs().max()
        assert ours <= allowed, f"{self}: error {ours:.3e}, stock's {theirs:.3e}, allowed {allowed:.3e}"

    def assert_same_as_stock(self, ours, stock, inputs, kink=None):
        """Values and all gradients of `ours` against `stock`'s, both judged by stock's in float64.

        Where `kink(*inputs)` is near 0 a rounding decides whether the gradient passes (ReLU): none is sent there.
        """
        exact_inputs = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
        dy = None
        results = []
        for function, tensors in ((stock, exact_inputs), (stock, inputs), (ours, inputs)):
            y = function(*tensors)
            if dy is None:
                dy = torch.randn(y.shape, dtype=torch.float64).to(self.dtype)
                if kink is not None:
                    dy = dy * (kink(*tensors).abs() > 0.1)
            wanted = [t for t in tensors if t.requires_grad]
            results.append((y, *torch.autograd.grad(y, wanted, dy.to(y.dtype))))
        for exact, theirs, actual in zip(*results):
            self.assert_close(actual, theirs, exact)


@pytest.fixture(autouse=True)
def seeded_and_native():
    """Every test is about our kernels, whether or not stock measured faster at its sizes; and starts from one seed."""
    torch.manual_seed(0)
    if _route.simt() is not None:
        _route.simt().seed(int(os.getenv("SIMT_SEED", "0")))
    with torchext.backend("native"):
        yield


def pytest_generate_tests(metafunc):
    """Tests of an op run on every instruction set and, where it has a CUDA kernel, on that, executed by csrc/simt."""
    name = metafunc.module.__name__.removeprefix("test_")
    has_kernel = any(name == op or name.startswith(f"{op}_") for op in CUDA)
    simt = ["simt"] if has_kernel and _route.simt() is not None else []
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", [*ISAS, *simt], indirect=True)
    if "overload" in metafunc.fixturenames:
        metafunc.parametrize("overload", ["default", *simt])


@pytest.fixture
def isa(request):
    """Runs the test on one CPU instruction set after the other, and on the GPU kernels."""
    if request.param == "simt":
        with torchext.backend("simt"):
            yield "simt"
        return
    before = torchext._C.cpu_isa()
    torchext._C.use_cpu_isa(request.param)
    yield request.param
    torchext._C.use_cpu_isa(before)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def case(request, isa):
    return Case(isa, request.param)


@pytest.fixture
def threads():
    """Sets the number of threads within a test, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class _Trace(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ops.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def trace():
    """`with trace() as ops:` lists every op the dispatcher ran, backward included: what ran, not what was asked for."""

    class Traced:
        def __enter__(self):
            self.mode = _Trace()
            self.mode.__enter__()
            return self.mode.ops

        def __exit__(self, *exception):
            return self.mode.__exit__(*exception)

    return Traced


@pytest.fixture
def saved_bytes():
    """Counts the bytes `function(*inputs)` saves for backward beyond its inputs and results."""

    def count(function, *inputs):
        saved = {}
        known = {t.untyped_storage().data_ptr() for t in inputs if t is not None}

        def pack(t):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            results = function(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        known |= {t.untyped_storage().data_ptr() for t in results}
        return sum(size for storage, size in saved.items() if storage not in known)

    return count


@pytest.fixture
def assert_drop_in(tmp_path):
    """A module of ours is its stock base class to everything that handles modules."""

    def check(ours, stock, x, exact=False):
        assert isinstance(ours, type(stock))
        ours.load_state_dict(stock.state_dict(), strict=True)
        stock.load_state_dict(ours.state_dict(), strict=True)
        want = stock(x)
        for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            torch.testing.assert_close(twin(x), want, rtol=0 if exact else None, atol=0 if exact else None)
        torch.save(ours, tmp_path / "module.pt")
        torch.testing.assert_close(torch.load(tmp_path / "module.pt", weights_only=False)(x), want)

    return check


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Small kernels on csrc/simt, some with a fault planted."""
    import simt_kernels

    return simt_kernels.build(tmp_path_factory.mktemp("simt") / "kernels.so")


@pytest.fixture(params=range(5))
def scheduled(kernels, request):
    """The same, their threads in several random orders."""
    kernels.seed(request.param)
    return kernels
