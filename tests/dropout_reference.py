"""Dropout's mask as csrc/philox.h specifies it, in NumPy: written from the specification, not from the kernels."""

import math

import numpy as np

MASK32 = np.uint64(0xFFFFFFFF)


def philox(counter, key, rounds=7):
    """Philox4x32 of counters, four arrays of words, under a key of two; words are held in uint64."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & MASK32
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def draws(seed, count, stream=0):
    """The 16-bit draws of elements 0 to `count`."""
    block = np.arange(-(-count // 8), dtype=np.uint64)
    zero = np.zeros_like(block)
    words = philox(
        (block & MASK32, block >> np.uint64(32), zero + np.uint64(stream), zero), (seed & 0xFFFFFFFF, seed >> 32)
    )
    return np.stack(words, 1).astype("<u4").view("<u2").reshape(-1)[:count]


def keep(seed, count, p):
    """True where an element is kept, for elements 0 to `count` in the order of the output's memory."""
    high, low = divmod(math.floor((1 - p) * 2**32 + 0.5), 2**16)
    first = draws(seed, count).astype(np.int64)
    return (first < high) | ((first == high) & (draws(seed, count, stream=1) < low))
