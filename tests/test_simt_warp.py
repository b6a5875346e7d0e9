"""Shuffles, votes, ldmatrix and mma on csrc/simt, lane by lane as the CUDA guide and the PTX manual define them."""

import numpy as np
import pytest
import torch
from matrix import needs_simt

pytestmark = needs_simt


def test_shuffles_and_votes(scheduled):
    x = np.random.default_rng(1).integers(0, 1000, 64).astype(np.int32)
    y = np.zeros((64, 16), np.int32)
    scheduled.collectives(y, x)
    want = np.zeros_like(y)
    for thread in range(64):
        lane, v = thread % 32, x[thread // 32 * 32 :][:32]
        first8, first16 = lane // 8 * 8, lane // 16 * 16
        ballot = sum(1 << i for i in range(32) if v[i] % 3 == 0)
        want[thread] = (
            v[5],
            v[first8 + (lane + 3) % 8],
            v[lane - 3] if lane >= 3 else v[lane],
            v[lane - 3] if lane - 3 >= first16 else v[lane],
            v[lane + 5] if lane + 5 < 32 else v[lane],
            v[lane + 5] if lane + 5 < first8 + 8 else v[lane],
            v[lane ^ 12],
            v[lane ^ 12] if lane ^ 12 < first8 + 8 else v[lane],
            v[7] if lane % 2 else v[8],
            (v[lane + 2] if lane < 2 else -1) if lane < 4 else 0,  # from a lane not in the mask: poison
            np.uint32(ballot).astype(np.int32),
            (v == x[40]).any(),
            sum(1 << i for i in range(8) if v[i] & 1) if lane < 8 else 1,
            (x & 1).sum(),
            3,
            1,
        )
    np.testing.assert_array_equal(y, want)


def fragment(matrix, place, registers, per_register, dtype):
    """The registers of 32 lanes, filled as the PTX manual places each lane's elements."""
    out = np.zeros((32, registers, per_register), dtype)
    for lane in range(32):
        for i in range(registers * per_register):
            out[lane, i // per_register, i % per_register] = matrix[place(lane // 4, lane % 4, i)]
    return out.view(np.uint32).reshape(32, registers)


# PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k8".
PLACES = {
    2: (
        lambda g, t, i: (g + 8 * (i // 2 % 2), 2 * t + i % 2 + 8 * (i // 4)),
        lambda g, t, i: (2 * t + i % 2 + 8 * (i // 2), g),
    ),
    4: (lambda g, t, i: (g + 8 * (i % 2), t + 4 * (i // 2)), lambda g, t, i: (t + 4 * i, g)),
}


def bits_of(values, name):
    values = torch.from_numpy(values)
    if name == "tf32":
        return values.numpy()
    return values.to(getattr(torch, name)).view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "tf32"])
def test_mma_multiplies_the_fragments_of_the_manual(kernels, name):
    size = 4 if name == "tf32" else 2
    k = 32 // size
    rng = np.random.default_rng(2)
    a, b, d = (rng.integers(-8, 9, s).astype(np.float32) for s in ((16, k), (k, 8), (16, 8)))  # exact in every type
    place_a, place_b = PLACES[size]
    ra = fragment(bits_of(a, name), place_a, 4, 4 // size, bits_of(a, name).dtype)
    rb = fragment(bits_of(b, name), place_b, 2, 4 // size, bits_of(b, name).dtype)
    place_d = lambda g, t, i: (g + 8 * (i // 2), 2 * t + i % 2)
    rd = fragment(d, place_d, 4, 1, np.float32).view(np.float32).copy()
    getattr(kernels, f"mma_{name}")(rd, ra, rb)
    assert np.array_equal(rd, fragment(d + a @ b, place_d, 4, 1, np.float32).view(np.float32))


def test_mma_in_float64(kernels):
    rng = np.random.default_rng(3)
    a, b, d = (rng.integers(-8, 9, s).astype(np.float64) for s in ((8, 4), (4, 8), (8, 8)))
    rd = d.reshape(8, 4, 2).copy()
    kernels.mma_float64(rd, a, np.ascontiguousarray(b.T))
    assert np.array_equal(rd.reshape(8, 8), d + a @ b)


@pytest.mark.parametrize("transposed", [0, 1])
def test_ldmatrix(kernels, transposed):
    x = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    y = np.zeros((32, 4, 2), np.uint16)
    kernels.load_matrix(y, x, transposed)
    matrices = x.transpose(0, 2, 1) if transposed else x
    assert np.array_equal(y.reshape(8, 4, 4, 2).transpose(2, 0, 1, 3).reshape(4, 8, 8), matrices)
