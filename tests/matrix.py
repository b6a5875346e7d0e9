"""The one matrix all ops are tested on: instruction set or GPU kernel x dtype; and what a case can make and judge."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import torchext
from torchext import _backend, _op

GPU = torch.cuda.is_available()
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ISAS = torchext._C.cpu_isas() if torchext._C else []
ROOT = Path(__file__).parent.parent
TRITON = bool(_backend.triton()) and (GPU or _backend.triton().INTERPRETED)  # its kernels run here
CUDA = {path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")}
GPU_KERNELS = {  # by the way they run here, the ops that have one
    "cuda": {stem for stem, serving in _op.GPU.items() if GPU and serving == "native"},
    "simt": CUDA if _backend.simt() else set(),  # csrc/cuda on the CPU
    "triton": {path.stem for path in (ROOT / "kernels").glob("*.py")} if TRITON else set(),
}
OVERLOADS = {"simt": "simt", "triton": "triton"}
needs_triton = pytest.mark.skipif(not TRITON, reason="needs Triton, and a GPU or its interpreter")
needs_simt = pytest.mark.skipif(_backend.simt() is None, reason="torchext._simt is not built: TORCHEXT_SIMT=1")


def on_device_of(isa):
    """Makes tensors where `isa` runs: on the GPU where there is one and Triton is not interpreted."""
    on_gpu = isa == "cuda" or (isa == "triton" and GPU and not _backend.triton().INTERPRETED)
    return torch.device("cuda") if on_gpu else contextlib.nullcontext()


@contextlib.contextmanager
def on_isa(name):
    before = torchext._C.cpu_isa()
    torchext._C.use_cpu_isa(name)
    try:
        yield name
    finally:
        torchext._C.use_cpu_isa(before)


@dataclass
class Case:
    """One cell of the matrix: makes tensors of its dtype and judges results against float64."""

    isa: str
    dtype: torch.dtype

    @property
    def overload(self):
        """The overload of our ops that must have run."""
        return OVERLOADS.get(self.isa, "default")

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
