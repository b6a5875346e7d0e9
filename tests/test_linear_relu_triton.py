"""The Triton kernels of linear_relu: which tiles, copies and precision a product gets."""

import pytest
import torch
from matrix import DTYPES, TRITON

if not TRITON:
    pytest.skip("needs Triton, and a GPU or its interpreter", allow_module_level=True)

from torchext.kernels import launch, linear_relu, product
from torchext.linear_relu import NATIVE

ops = torch.ops.torchext
pytestmark = pytest.mark.usefixtures("on_triton")


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    """As the interpreter has: with 132 the same sizes would not get large tiles."""
    for module in (launch, linear_relu, product):
        monkeypatch.setattr(module, "processors", lambda x: 8)


def run(dtype, m, k, n, spread=1):
    """Results and expected results; rows lie `spread` times as far apart as needed."""
    torch.manual_seed(0)
    x, w, dy = (torch.randn(r, c * spread, dtype=torch.float64).to(dtype)[:, :c] for r, c in ((m, k), (n, k), (m, n)))
    b = torch.randn(n, dtype=torch.float64).to(dtype)
    y = ops.linear_relu.triton(x, w, b, NATIVE)
    results = y, *ops.linear_backward.triton(dy, x, w, y, NATIVE, True, True, True)
    x, w, b, dy, y = (t.double() for t in (x, w, b, dy, y))
    dz = dy.where(y > 0, 0)
    return results, ((x @ w.T + b).relu(), dz @ w, dz.T @ x, dz.sum(0))


def assert_right(results, wants):
    for got, want in zip(results, wants):
        roundings = {torch.float64: 64, torch.float32: 16}.get(got.dtype, 1)
        bound = torch.finfo(got.dtype).eps * float(want.abs().max()) * roundings
        torch.testing.assert_close(got.double(), want, rtol=0, atol=bound)


@pytest.fixture
def launched(monkeypatch):
    """Lists, for each launch, its kernel's name and its constants."""
    found = []

    def spy(kernel, grid, *args, **meta):
        tuned = hasattr(kernel, "configs")
        found.append((kernel.fn if tuned else kernel).__name__ + (" tuned" if tuned else ""))
        constants.append(meta)
        launch.launch(kernel, grid, *args, **meta)

    constants = []
    for module in (linear_relu, product):
        monkeypatch.setattr(module, "launch", spy)
    return found, constants


@pytest.fixture(params=[80, 90])
def capability(request, monkeypatch):
    monkeypatch.setattr(linear_relu, "capability", lambda x: request.param)
    return request.param


# (m, k, n) of 8 large tiles and more: whole, and ragged everywhere.
@pytest.mark.parametrize("m, k, n", [(512, 64, 256), (392, 264, 280)])
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_large_tiles_copied_by_tma_and_by_pointers(dtype, m, k, n, capability, launched):
    results, wants = run(dtype, m, k, n, spread=2)
    assert_right(results, wants)
    names, constants = launched
    assert names[0] == "product_kernel tuned" and constants[0]["DESCRIBED"] == (capability == 90)


@pytest.mark.parametrize("m, k, n", [(257, 61, 515), (1, 1, 1), (65, 64, 63)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_tiles(dtype, m, k, n, launched):
    results, wants = run(dtype, m, k, n)
    assert_right(results, wants)
    assert "product_kernel tuned" not in launched[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums_are_split_into_pieces_added_in_a_fixed_order(dtype, launched):
    first, wants = run(dtype, 70, 2000, 40)
    assert_right(first, wants)
    assert launched[0][:2] == ["product_kernel", "add_pieces_kernel"]
    assert all(torch.equal(a, b) for a, b in zip(first, run(dtype, 70, 2000, 40)[0]))


def test_pieces_cover_the_sum_once():
    x = torch.empty(0)
    for tiles, k in ((1, 100), (1, 512), (1, 5000), (3, 1000), (7, 1 << 20), (8, 4096), (1000, 1 << 20)):
        pieces, depth = product.split(tiles, k, x)
        assert (pieces - 1) * depth < k <= pieces * depth and (pieces == 1 or depth % product.DEPTHS == 0)
        assert tiles * pieces <= max(tiles, launch.processors(x))


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_follows_torchs_switch(tf32, launched):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        run(torch.float32, 5, 4, 3)
    finally:
        torch.set_float32_matmul_precision(before)
    assert {c["PRECISION"] for c in launched[1] if "PRECISION" in c} == {"tf32" if tf32 else "ieee"}


def test_what_tma_can_address():
    half = lambda *shape: torch.empty(*shape, dtype=torch.bfloat16)
    for fits in (half(16, 64), half(64, 16).t(), half(16, 128)[:, :64], half(16, 64)[2:]):
        assert linear_relu.is_describable(fits)
    for not_aligned in (half(16, 63), half(16, 65)[:, :64], half(16, 72)[:, 1:65], half(16, 128)[:, ::2]):
        assert not linear_relu.is_describable(not_aligned)
    assert not linear_relu.is_describable(half(1, 64).expand(16, 64))
