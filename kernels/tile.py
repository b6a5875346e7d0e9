"""What kernels do with tiles of numbers, alike on a GPU and in Triton's interpreter."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def scalar(value, dtype: tl.constexpr):
    """An argument annotated tl.float64, in `dtype`. The interpreter passes a Python float."""
    if INTERPRETED:
        return tl.full([], value, dtype)
    else:
        return value.to(dtype)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x in `dtype`, to nearest even. The interpreter's own conversion to bfloat16 truncates."""
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype != tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nearest = tl.where(x == x, nearest, 0x7FC0)
        return nearest.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def dot(a, b, sum, precision: tl.constexpr):
    """sum + a @ b. The interpreter's product of bfloat16 is wrong by orders of magnitude, so it is given float32."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sum, input_precision="ieee", out_dtype=sum.dtype)
    else:
        return tl.dot(a, b, sum, input_precision=precision, out_dtype=sum.dtype)


@triton.jit
def multiple(value, BY: tl.constexpr):
    """value, a multiple of BY, which the compiler then knows: it asks an argument only whether 16 divides it."""
    return value // BY * BY


@triton.jit
def check(condition, message: tl.constexpr):
    """Fails the kernel, compiled with debug=True, where a condition does not hold; the interpreter as well."""
    if INTERPRETED:
        tl.static_assert(tl.min(condition.to(tl.int32)) == 1, message)
    else:
        tl.device_assert(condition, message)
