"""linear: y = x w^T + b;  linear_relu: max(y, 0);  backward: dx = dz w, dw = dz^T x, with dz and db by relu_backward.

All three products are c = a b^T of two strided matrices, so that nothing is transposed in memory:

                 b^T  [K, N]                    y:  a = x     [m, k]    b = w     [n, k]
              +----+----+                       dx: a = dz    [m, n]    b = w^T   [k, n]
              |    | BK |                       dw: a = dz^T  [n, m]    b = x^T   [k, m]
              +----+----+
       a +--+ +----+----+
         |BK| | BM x BN |  c [M, N]: a tile is summed in registers, ends with bias and ReLU, and is written once
         +--+ +----+----+

A tile reads (BM + BN) K elements for BM BN K multiply-adds: 64 of them an element at 128 x 128, so large products are
bound by the matrix units. Where tiles are too few for the processors the sum is cut into pieces [pieces, M, N], which
add_pieces adds up in one order.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton import Config

from .launch import accumulator, autotune, capability, give_scratch, implements, is_aligned, launch, processors
from .product import add_pieces, finished, on_tensor_cores, precision, scratch, size_class, split, step
from .relu_backward import relu_backward
from .tile import dot_apart, rounded

GROUP = tl.constexpr(8)  # tiles of neighbouring programs form squares about so high, whose operands stay in L2


@triton.jit
def source(x, rows, k, x_row, x_k, ROWS: tl.constexpr, BK: tl.constexpr, DESCRIBED: tl.constexpr, BY_K: tl.constexpr):
    """What tile() reads: the pointer itself, or a descriptor of the matrix as it lies in memory."""
    if not DESCRIBED:
        return x
    elif BY_K:
        return tl.make_tensor_descriptor(x, [rows, k], [x_row, 1], [ROWS, BK])
    else:
        return tl.make_tensor_descriptor(x, [k, rows], [x_k, 1], [BK, ROWS])


@triton.jit
def tile(
    x, row0, k0, rows, k, x_row, x_k,
    ROWS: tl.constexpr, BK: tl.constexpr, DESCRIBED: tl.constexpr, BY_K: tl.constexpr,
):  # fmt: skip
    """x[row0 : row0 + ROWS, k0 : k0 + BK], 0 outside the matrix. It is read as it lies, then turned."""
    if DESCRIBED:
        row0 = row0.to(tl.int32)
        if BY_K:
            return x.load([row0, k0])
        else:
            return x.load([k0, row0]).T
    else:
        row, column = row0 + tl.arange(0, ROWS), k0 + tl.arange(0, BK).to(tl.int64)
        if BY_K:
            to = x + (row * x_row)[:, None] + (column * x_k)[None, :]
            return tl.load(to, (row < rows)[:, None] & (column < k)[None, :], 0)
        else:
            to = x + (column * x_k)[:, None] + (row * x_row)[None, :]
            return tl.load(to, (column < k)[:, None] & (row < rows)[None, :], 0).T


@triton.jit
def place(number, tiles_m, tiles_n):
    """The row and column of a tile: down GROUP rows, then the next column of them."""
    of_group = GROUP * tiles_n
    first = number // of_group * GROUP
    high = min(tiles_m - first, GROUP)
    return first + number % of_group % high, number % of_group // high


@triton.jit(do_not_specialize=["size_class"])
def product_kernel(
    c, a, b, bias, M, N, K, pieces, depth, a_row, a_k, b_row, b_k, size_class,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, RELU: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, DESCRIBED: tl.constexpr, A_BY_K: tl.constexpr, B_BY_K: tl.constexpr,
):  # fmt: skip
    a_source = source(a, M, K, a_row, a_k, BM, BK, DESCRIBED, A_BY_K)
    b_source = source(b, N, K, b_row, b_k, BN, BK, DESCRIBED, B_BY_K)
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    tiles = tiles_m * tiles_n
    first = tl.program_id(0)
    last, step = (tiles * pieces, tl.num_programs(0)) if DESCRIBED else (first + 1, 1)
    for work in tl.range(first, last, step, flatten=DESCRIBED):
        piece = work // tiles
        tile_m, tile_n = place(work % tiles, tiles_m, tiles_n)
        row0, column0 = tile_m.to(tl.int64) * BM, tile_n.to(tl.int64) * BN
        sum = tl.zeros([BM, BN], ACC)
        for k0 in range(piece * depth, min(piece * depth + depth, K), BK):
            left = tile(a_source, row0, k0, M, K, a_row, a_k, BM, BK, DESCRIBED, A_BY_K)
            right = tile(b_source, column0, k0, N, K, b_row, b_k, BN, BK, DESCRIBED, B_BY_K)
            sum = dot_apart(left, right.T, sum, PRECISION)
        row, column = row0 + tl.arange(0, BM), column0 + tl.arange(0, BN)
        bias_row = None if bias is None else tl.load(bias + column, column < N, 0).to(ACC)[None, :]
        result = rounded(finished(sum, bias_row, RELU), c.dtype.element_ty)
        to = c + piece.to(tl.int64) * M * N + row[:, None] * N + column[None, :]
        tl.store(to, result, (row < M)[:, None] & (column < N)[None, :])


# Square first: it wastes least at ragged edges; the wide one reads a quarter less for each multiply-add.
LARGE = [Config({"BM": 128, "BN": n}, num_warps=8, num_stages=3) for n in (128, 256)]
tuned_product_kernel = autotune(LARGE, key=["size_class"])(product_kernel)
SMALL = {"BM": 64, "BN": 64, "num_warps": 4, "num_stages": 3}
EXACT = SMALL | {"num_warps": 8}  # float64 and the CUDA cores: by fewer warps they spill


def is_describable(x: Tensor) -> bool:
    """Whether the TMA engine can address the matrix x: one dimension dense, the other in steps of 16 bytes."""
    dense, other = (1, 0) if x.stride(1) == 1 else (0, 1)
    step = x.stride(other) * x.element_size()
    fits = x.stride(other) >= x.shape[dense] and step < 2**40 and max(x.shape) < 2**31
    return x.stride(dense) == 1 and step % 16 == 0 and fits and is_aligned(x)


def product(c: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> None:
    """c [M, N], dense, = a [M, K] b^T [K, N] + bias [N], then ReLU; a and b of any strides.

    Large tiles are for products that fill the processors with them and copy 16 bytes at once: element by element they
    would spill. With TMA each processor runs one program that walks from tile to tile, the next one's copies under way
    while the last is written.
    """
    (m, k), n = a.shape, b.shape[0]
    if m == 0 or n == 0:
        return
    how = precision(a, "matmul")
    fills = triton.cdiv(m, 128) * triton.cdiv(n, 128) >= processors(a)
    matrix_units = on_tensor_cores(a, how)
    large = matrix_units and fills and k > 0 and is_describable(a) and is_describable(b)
    described = large and capability(a) >= 90
    kernel, tiles = (tuned_product_kernel, {}) if large else (product_kernel, SMALL if matrix_units else EXACT)
    number = lambda of: triton.cdiv(m, of["BM"]) * triton.cdiv(n, of["BN"])
    pieces, depth = (1, k) if large else split(number(tiles), k, a)
    to, end = (c, (bias, relu)) if pieces == 1 else (scratch(c, pieces, m, n), (None, False))
    grid = lambda meta: (min(number(meta), processors(a)) if described else number(meta) * pieces,)
    if described:
        give_scratch(a)
    launch(
        kernel, grid, to, a, b, end[0], m, n, k, pieces, depth, *a.stride(), *b.stride(), size_class(m, n, k),
        BK=step(a, how), RELU=end[1], ACC=accumulator(a), PRECISION=how,
        DESCRIBED=described, A_BY_K=a.stride(1) == 1, B_BY_K=b.stride(1) == 1, **tiles,
    )  # fmt: skip
    if pieces > 1:
        add_pieces(c, to, bias, relu)


def forward(x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
    y = x.new_empty(x.shape[0], w.shape[0])
    product(y, x, w, b if b is None or b.is_contiguous() else b.contiguous(), relu)
    return y


@implements("linear")
def linear(x: Tensor, w: Tensor, b: Tensor | None, algorithm: int) -> Tensor:
    return forward(x, w, b, relu=False)


@implements("linear_relu")
def linear_relu(x: Tensor, w: Tensor, b: Tensor | None, algorithm: int) -> Tensor:
    return forward(x, w, b, relu=True)


@implements("linear_backward")
def linear_backward(
    dy: Tensor, x: Tensor, w: Tensor, y: Tensor | None, algorithm: int, want_dx: bool, want_dw: bool, want_db: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw = x.new_empty(x.shape if want_dx else 0), x.new_empty(w.shape if want_dw else 0)
    db = x.new_empty(w.shape[0] if want_db else 0)
    dz = dy if y is None else x.new_empty(dy.shape)
    if y is not None or want_db:
        planes = [t if t is None else t.t().unsqueeze(0) for t in (dy, y, None if y is None else dz)]
        relu_backward(*planes, db if want_db else None)
    if want_dx:
        product(dx, dz, w.t())
    if want_dw:
        product(dw, dz.t(), x.t())
    return dx, dw, db
