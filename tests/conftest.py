"""How the matrix of matrix.py is run: which tests are run on which cells, and the fixtures that all tests share."""

import copy
import os
import pickle

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before our Triton kernels are imported: they run on CPU tensors
os.environ.setdefault("TORCHEXT_TABLE", "shipped")  # not what somebody measured on this machine

from conv2d_cases import conv2d_kernel  # noqa: F401
from gpu_cases import cudnn, gpu  # noqa: F401
from matrix import DTYPES, GPU, GPU_KERNELS, ISAS, OVERLOADS, Case, on_device_of, on_isa
from tuning_cases import timetable  # noqa: F401
from what_ran import saved_bytes, trace  # noqa: F401

import torchext
from torchext import _backend, _op

hypothesis.settings.register_profile(
    "torchext", derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("torchext")


def pytest_configure():
    assert torchext._C is not None, "torchext._C is not built: run `make build`"
    torch.backends.cudnn.allow_tf32 = False  # results are held to float32's own precision
    torch.backends.cudnn.deterministic = True  # second derivatives are stock's, and gradcheck needs repeatable ones
    torch.set_num_threads(1)  # tests run side by side; those about threads ask for more
    if _backend.triton() and _backend.triton().INTERPRETED:
        _patch_each_module_once()


def _patch_each_module_once():
    """Triton's interpreter patches its language at each launch and, in 1 ms, at each helper's call; once is enough."""
    from triton.runtime.interpreter import InterpretedFunction

    original, patched = InterpretedFunction.__call__, set()

    def call(self, *args, **kwargs):
        module = self.fn.__globals__["__name__"]
        if module in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(module)
        return original(self, *args, **kwargs)

    InterpretedFunction.__call__ = call


def pytest_addoption(parser):
    parser.addoption("--backend", default="native", help="what serves our ops in the tests: native, or auto as users")


@pytest.fixture(autouse=True)
def seeded_and_served(request):
    """Every test runs our kernels, whether or not stock measured faster at its sizes, and starts from the same seed."""
    torch.manual_seed(0)
    if _backend.simt() is not None:
        _backend.simt().seed(int(os.getenv("SIMT_SEED", "0")))
    with torchext.backend(request.config.getoption("--backend")):
        yield


def pytest_generate_tests(metafunc):
    """Tests of an op run on every instruction set and on its GPU kernels; without a GPU by simt and the interpreter."""
    name = metafunc.module.__name__.removeprefix("test_")
    kernels = [backend for backend, ops in GPU_KERNELS.items() if any(f"{name}_".startswith(f"{op}_") for op in ops)]
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", [*ISAS, *kernels], indirect=True)
    if "overload" in metafunc.fixturenames:
        metafunc.parametrize("overload", ["default", *kernels], indirect=True)


def _is_of_auto(item):
    """Whether the test covers ops that "auto" serves on the CPU."""
    stem = item.module.__name__.removeprefix("test_")
    params = getattr(getattr(item, "callspec", None), "params", {})
    of_gpu = any(params.get(name) in GPU_KERNELS for name in ("isa", "overload"))
    op = any(f"{stem}_".startswith(f"{op}_") for op in _op.OPS) or stem in ("sequential", "accelerate")
    skipped = item.get_closest_marker("native") or item.get_closest_marker("inductor") or "compiles" in item.name
    return op and not (of_gpu or skipped or "simt" in stem or "triton" in stem)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Interpreted, a launch takes 10 ms: Triton's slow cases, and two dtypes of four, are marked long."""
    if config.getoption("--backend") == "auto":
        items[:] = [item for item in items if _is_of_auto(item)]
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        slow = "gradcheck" in item.name or "opcheck" in item.name or params.get("case") in DTYPES[::3]
        if not GPU and slow and "triton" in (params.get("isa"), params.get("overload")):
            item.add_marker(pytest.mark.long)


@pytest.fixture(params=ISAS)
def cpu_isa(request):
    """Runs the test on one CPU instruction set after the other."""
    with on_isa(request.param):
        yield request.param


@pytest.fixture
def isa(request):
    """Runs the test on each CPU instruction set, then on the GPU kernels."""
    if request.param in GPU_KERNELS:
        with on_device_of(request.param), torchext.backend(OVERLOADS.get(request.param, "native")):
            yield request.param
        return
    with on_isa(request.param):
        yield request.param


@pytest.fixture
def on_triton():
    """Makes tensors where Triton's kernels run, and chooses those kernels."""
    with on_device_of("triton"), torchext.backend("triton"):
        yield


@pytest.fixture
def overload(request):
    """Each overload of the op that has a kernel; tensors are made where it runs."""
    with on_device_of(request.param):
        yield OVERLOADS.get(request.param, "default")


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def case(request, isa):
    return Case(isa, request.param)


@pytest.fixture
def threads():
    """Sets the number of threads within a test, and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def assert_drop_in(tmp_path):
    """Checks that a module of ours behaves as its stock base class: state, copies, pickles, files."""

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
    """The same kernels, their threads in several random orders."""
    kernels.seed(request.param)
    return kernels
