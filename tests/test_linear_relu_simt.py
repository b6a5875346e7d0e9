"""The CUDA kernels of linear_relu, run on csrc/simt: order of threads, TF32, tiles, traffic."""

import pytest
import torch
from matrix import DTYPES, needs_simt

from torchext import _backend
from torchext._linear_relu_route import OUR_PRODUCT

pytestmark = needs_simt
ops = torch.ops.torchext


def run(dtype, m, k, n, seed=0):
    torch.manual_seed(0)
    _backend.simt().seed(seed)
    x, w, b, dy = (torch.randn(*s, dtype=torch.float64).to(dtype) for s in ((m, k), (n, k), (n,), (m, n)))
    y = ops.linear_relu.simt(x, w, b, OUR_PRODUCT)
    return (x, w, b, dy), (y, *ops.linear_backward.simt(dy, x, w, y, OUR_PRODUCT, True, True, True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_order_of_threads_and_blocks(dtype):
    runs = [run(dtype, 70, 300, 40, seed)[1] for seed in range(4)]  # k is split, rows are summed in pieces
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other))


# (m, k, n) with the large tile: whole, ragged, with packs along k and without; then one tile with k split.
SHAPES = [(256, 64, 256), (259, 40, 264), (257, 35, 259), (33, 600, 24)]


@pytest.fixture(params=[False, True], ids=["ieee", "tf32"])
def tf32(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("m, k, n", SHAPES)
def test_float32_is_exact_unless_torch_allows_tf32(tf32, m, k, n):
    (x, w, b, dy), (y, dx, dw, db) = run(torch.float32, m, k, n)
    # Rounded to 10 bits of mantissa, halves away from zero.
    rounded = lambda t: ((t.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    dz = dy.where(y > 0, 0)
    r = rounded if tf32 else lambda t: t
    wants = (
        (r(x).double() @ r(w).double().T + b).relu(),
        r(dz).double() @ r(w).double(),
        r(dz).double().T @ r(x).double(),
        dz.double().sum(0),
    )
    for got, want in zip((y, dx, dw, db), wants):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * float(want.abs().max()))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
@pytest.mark.parametrize("m, k, n", SHAPES)
def test_every_tile_is_right(dtype, m, k, n):
    (x, w, b, dy), results = run(dtype, m, k, n)
    x, w, b, dy, y = (t.double() for t in (x, w, b, dy, results[0]))
    dz = dy.where(y > 0, 0)
    for got, want in zip(results, ((x @ w.T + b).relu(), dz @ w, dz.T @ x, dz.sum(0))):
        bound = torch.finfo(dtype).eps * float(want.abs().max()) * (64 if dtype == torch.float64 else 1)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=bound)


def test_each_tile_reads_its_rows_once_and_every_result_is_written_once():
    m, k, n = 256, 64, 384
    simt = _backend.simt()
    simt.record(True)
    run(torch.bfloat16, m, k, n)
    forward = simt.launches()[0]
    simt.record(False)
    tiles = (m // 128) * (n // 128)
    assert forward["blocks"] == tiles and forward["written"] == m * n * 2
    assert forward["read"] == tiles * (2 * 128 * k * 2) + (m // 128) * n * 2 * 2 * 8  # bias: 2 warps x 8 lanes a column
