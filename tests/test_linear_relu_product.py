"""The CPU's own matrix product behind linear_relu: every edge of its tiles, blocks and layouts; and the library's."""

import pytest
import torch

from torchext._linear_relu_route import LIBRARYS_PRODUCT, OUR_PRODUCT

ops = torch.ops.torchext
# Tiles are 4 to 16 rows by 6 to 48 columns; blocks are up to 264 deep (AVX2, float), 256 rows by 504 columns.
ROWS = (*range(1, 10), 11, 12, 13, 15, 17, 23, 25)
COLUMNS = (*range(1, 10), 12, 13, 15, 16, 17, 23, 24, 25, 31, 33, 47, 48, 49)
DEEP = (1, 2, 7, 8, 9, 17, 131, 133, 263, 264, 265, 529)
BLOCKS = [(257, 40, 31), (31, 40, 505), (300, 10, 520), (70, 1024, 20), (20, 512, 70)]


def product(dtype, m, k, n, relu=True, algorithm=OUR_PRODUCT):
    """linear_relu and all of its gradients, by our kernels, by stock's and in float64; of small integers."""
    torch.manual_seed(m * 5003 + k * 71 + n)
    x, w, b, dy = (torch.randint(-3, 4, s).to(dtype) for s in ((m, k), (n, k), (n,), (m, n)))
    y = (ops.linear_relu if relu else ops.linear)(x, w, b, algorithm)
    ours = (y, *ops.linear_backward(dy, x, w, y if relu else None, algorithm, True, True, True))
    x, w, b, dy = (t.double() for t in (x, w, b, dy))
    y = x @ w.t() + b
    y = y.relu() if relu else y
    dz = dy * (y > 0) if relu else dy
    return ours, (y, dz @ w, dz.t() @ x, dz.sum(0))


def assert_exact(dtype, m, k, n, relu=True, algorithm=OUR_PRODUCT):
    """Sums of small integers are exact in float32: only the last rounding, to `dtype`, remains."""
    for what, ours, exact in zip(("y", "dx", "dw", "db"), *product(dtype, m, k, n, relu, algorithm)):
        assert torch.equal(ours, exact.to(dtype)), f"{what} of m = {m}, k = {k}, n = {n}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_number_of_rows_and_columns(cpu_isa, dtype):
    for m in ROWS:
        for n in COLUMNS:
            assert_exact(dtype, m, 10, n, relu=(m + n) % 2 == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_depth(cpu_isa, dtype):
    for k in DEEP:
        for m, n in ((5, 29), (29, 5)):
            assert_exact(dtype, m, k, n)
            assert_exact(dtype, k, m, n)  # then dw is the deep one
            assert_exact(dtype, m, n, k)  # dx


@pytest.mark.parametrize("m, k, n", BLOCKS)
def test_several_blocks_of_rows_columns_and_depth(cpu_isa, m, k, n):
    assert_exact(torch.float32, m, k, n)
    assert_exact(torch.bfloat16, m, k, n)


def test_blocks_of_all_three_together(cpu_isa):
    for dtype in (torch.float32, torch.bfloat16):
        assert_exact(dtype, 259, 300, 507)


@pytest.mark.parametrize("m, k, n", [*BLOCKS, (259, 300, 507)])
@pytest.mark.parametrize("relu", [False, True])
def test_products_by_the_library_are_exact_too(m, k, n, relu):
    assert_exact(torch.float32, m, k, n, relu, LIBRARYS_PRODUCT)  # of 16-bit types it rounds before the bias is added


LAYOUTS = {
    "dense": lambda t: t,
    "transposed": lambda t: t.t().contiguous().t(),
    "columns of a wider one": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "rows of a taller, transposed one": lambda t: torch.cat([t, t]).t().contiguous().t()[: t.shape[0]],
    "every other column": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "one row for all": lambda t: t[:1].expand(t.shape),
    "one number for all": lambda t: t[:1, :1].expand(t.shape),
}


@pytest.mark.parametrize("x_layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("w_layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("m, k, n", [(13, 70, 30), (30, 300, 13), (3, 1, 5), (1, 6, 1)])
def test_operands_of_any_layout(cpu_isa, x_layout, w_layout, m, k, n):
    x, w, b, dy = (torch.randn(*s) for s in ((m, k), (n, k), (n,), (m, n)))
    x, w = x_layout(x), w_layout(w)
    got = (ops.linear(x, w, b, OUR_PRODUCT), *ops.linear_backward(dy, x, w, None, OUR_PRODUCT, True, True, True))
    dense = (ops.linear(x.contiguous(), w.contiguous(), b, OUR_PRODUCT),
             *ops.linear_backward(dy, x.contiguous(), w.contiguous(), None, OUR_PRODUCT, True, True, True))  # fmt: skip
    assert all(torch.equal(ours, want) for ours, want in zip(got, dense))


@pytest.mark.parametrize("m, k, n", [(2000, 30, 40), (40, 30, 2000), (300, 600, 130), (64, 784, 500), (513, 300, 10)])
@pytest.mark.parametrize("algorithm", [LIBRARYS_PRODUCT, OUR_PRODUCT])
def test_results_do_not_depend_on_the_number_of_threads(threads, cpu_isa, algorithm, m, k, n):
    x, w, b, dy = (torch.randn(*s) for s in ((m, k), (n, k), (n,), (m, n)))
    results = []
    for count in (1, 2, 3, 4):
        threads(count)
        y = ops.linear_relu(x, w, b, algorithm)
        results.append((y, *ops.linear_backward(dy, x, w, y, algorithm, True, True, True)))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_nan_and_infinity_stay_in_their_rows_and_columns(cpu_isa):
    x, w, b = torch.randn(30, 20), torch.randn(50, 20), torch.randn(50)
    x[7, 3], w[31, 4], b[49] = float("nan"), float("inf"), float("nan")
    want = torch.nn.functional.linear(x.double(), w.double(), b.double()).relu()
    got = ops.linear_relu(x, w, b, OUR_PRODUCT)
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())
    dy = torch.randn(30, 50)
    dx, dw, db = ops.linear_backward(dy, x, w, got, OUR_PRODUCT, True, True, True)
    dz = torch.where(got <= 0, 0.0, dy).double()
    for ours, exact in ((dx, dz @ w.double()), (dw, dz.t() @ x.double()), (db, dz.sum(0))):
        assert torch.equal(ours.isnan(), exact.isnan())
