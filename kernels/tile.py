"""What kernels do with tiles of numbers, alike on a GPU and in Triton's interpreter."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
OUTSIDE = tl.constexpr(-(2**30))  # a row no image has, nor gets by adding taps: that of pixels past the last


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
def dot_apart(a, b, sum, precision: tl.constexpr):
    """The same, where a step's float32 terms have a sum of their own: CUDA cores add one after the other.

    256 normal terms err by 2.7e-5 in one row, by 0.8e-5 in steps of 16. It takes as many registers again as `sum`.
    """
    if a.dtype == tl.float32 and precision == "ieee":
        # The limit is float8's; a product that has one Triton does not fold into the addition.
        return sum + tl.dot(a, b, input_precision=precision, max_num_imprecise_acc=1, out_dtype=sum.dtype)
    else:
        return dot(a, b, sum, precision)


@triton.jit
def multiple(value, BY: tl.constexpr):
    """value, a multiple of BY, which the compiler then knows: it asks an argument only whether 16 divides it."""
    return value // BY * BY


@triton.jit
def again(value):
    """value, not recognised: the places that follow from it are computed again behind a loop, not held over it.

    Held, they take the registers that Triton 3.6 lacks on sm_80 and sm_100: 2 to 8 spills a kernel.
    """
    if INTERPRETED:
        return value
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [value], tl.int32, is_pure=False, pack=1)


@triton.jit
def check(condition, message: tl.constexpr):
    """Fails the kernel, compiled with debug=True, where a condition does not hold; the interpreter as well."""
    if INTERPRETED:
        tl.static_assert(tl.min(condition.to(tl.int32)) == 1, message)
    else:
        tl.device_assert(condition, message)
