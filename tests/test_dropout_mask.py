"""Dropout's mask: to the bit as csrc/philox.h specifies it, and as random as it must be.

Statistics run on fixed seeds and allow 5 standard deviations: a good generator would fail one of them in 1.7 million.
"""

import math
import subprocess
from pathlib import Path

import dropout_reference as reference
import numpy as np
import pytest
import simt_kernels
import torch
from dropout_cases import seed_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import torchext
from torchext._shapes import empty_dropped
from torchext.nn import functional as F

SIGMAS = 5
OPS = torch.ops.torchext.dropout


@pytest.fixture(autouse=True)
def native():
    with torchext.backend("native"):
        yield


def mask(count, p, seed, overload="default"):
    return getattr(OPS, overload)(torch.ones(count), seed_of(seed), p, 1.0, 0.0, 0.0) != 0


@pytest.fixture
def op(case):
    return getattr(OPS, case.overload)


def test_the_reference_gives_the_published_known_answers():
    answers = {
        ((0, 0, 0, 0), (0, 0)): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): "408f276d 41c83b0e a20bc7c6 6d5451fd",
    }
    for (counter, key), words in answers.items():
        assert " ".join(f"{int(w):08x}" for w in reference.philox(counter, key, rounds=10)) == words


def test_every_length_drops_what_the_specification_says(case, op):
    seed = 0x0123456789ABCDEF
    for count in (*range(301), 1023, 4099):
        y = op(torch.ones(count, dtype=case.dtype), seed_of(seed), 0.3, 2.0, 0.0, 0.0)
        assert torch.equal(y, torch.as_tensor(reference.keep(seed, count, 0.3)).to(case.dtype) * 2)


# 2^18 elements draw about four ties each time; the extreme probabilities keep or drop all but a few.
@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.5 + 2**-18, 1e-3, 0.999, 1e-6, 1 - 1e-6, 1e-12, 1 - 1e-12])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 2, 0xDEADBEEF00000000])
def test_every_probability_drops_what_the_specification_says(isa, p, seed):
    seed = seed % 2**63
    overload = isa if isa in ("simt", "triton") else "default"
    assert np.array_equal(mask(2**18, p, seed, overload).cpu().numpy(), reference.keep(seed, 2**18, p))


# Here every warp takes several steps, and every kind of tie occurs.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("in_place", [False, True])
def test_long_tensors_drop_what_the_specification_says(overload, dtype, offset, in_place):
    count = 2**19 + 13
    x = torch.ones(count + offset, dtype=dtype)[offset:]
    arguments = x, seed_of(5), 0.3, 3.0, 0.5, 0.25
    y = getattr(torch.ops.torchext.dropout_ if in_place else OPS, overload)(*arguments)
    want = torch.as_tensor(reference.keep(5, count, 0.3)).to(dtype) * 3.25 + 0.25
    assert torch.equal(x if in_place else y, want)


# An element whose 32 bits are the threshold itself is dropped; with the next threshold it is kept.
@pytest.mark.parametrize("element", [0, 3, 14, 77])
def test_the_threshold_is_exact_to_its_last_bit(case, op, element):
    draw = sum(int(reference.draws(9, element + 1, stream)[-1]) << 16 * (1 - stream) for stream in (0, 1))
    for more in (0, 1):
        y = op(torch.ones(101, dtype=case.dtype), seed_of(9), 1 - (draw + more) / 2**32, 1.0, 0.0, 0.0)
        assert bool(y[element] != 0) == bool(more)


@pytest.mark.parametrize("offset", range(1, 9))
def test_misaligned_views_drop_the_same_elements(case, op, offset):
    x = torch.ones(1000 + offset, dtype=case.dtype)[offset:]
    y = op(x, seed_of(7), 0.5, 1.0, 0.0, 0.0)
    assert torch.equal(y != 0, torch.as_tensor(reference.keep(7, 1000, 0.5)))


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(2, 0, 3, 1),
    "sliced": lambda t: t[..., ::2],
    "sliced channels_last": lambda t: t.contiguous(memory_format=torch.channels_last)[:, :, 1:],
    "expanded": lambda t: t[:1].expand(t.shape),
    "one channel": lambda t: t[:, :1].contiguous(memory_format=torch.channels_last),
    "overlapping": lambda t: t.flatten().as_strided((5, 7), (3, 1)),
    "scalar": lambda t: t.flatten()[0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_elements_are_counted_in_the_order_of_the_outputs_memory(case, op, layout):
    x = layout(torch.ones(3, 4, 5, 6, dtype=case.dtype))
    y = op(x, seed_of(11), 0.5, 1.0, 0.0, 0.0)
    assert y.stride() == torch.dropout(x, 0.5, True).stride()
    in_memory = y.as_strided((y.numel(),), (1,))
    assert torch.equal(in_memory != 0, torch.as_tensor(reference.keep(11, y.numel(), 0.5)))
    assert op(x, seed_of(11), 0.5, 1.0, 0.5, 0.25).stride() == torch.alpha_dropout(x, 0.5, True).stride()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_fake_result_has_the_strides_of_stocks_on_its_device(device):
    with FakeTensorMode():
        x = torch.empty_strided((3, 1, 5, 6), (30, 1, 6, 1), device=device)
        dropped, alpha_dropped = (empty_dropped(x, fill).stride() for fill in (0.0, 0.25))
    assert alpha_dropped == (30, 30, 6, 1)
    assert dropped == ((30, 1, 6, 1) if device == "cuda" else (30, 30, 6, 1))  # stock's kernel for CUDA keeps them


def test_the_mask_does_not_depend_on_the_number_of_threads(threads):
    masks = []
    for count in (1, 2):
        threads(count)
        masks.append(mask(300_001, 0.4, 5))
    assert torch.equal(*masks)


@simt_kernels.needs_compiler
def test_blocks_beyond_32_bits(tmp_path):
    """2^35 elements do not fit into memory: a C++ program runs the kernels on a window of them."""
    root, headers = Path(__file__).parent.parent, Path(torch.__file__).parent / "include"
    sources = [root / "tests/csrc/philox_window.cpp", root / "csrc/cpu/dropout.cpp", root / "csrc/cpu/isa.cpp"]
    flags = ["-std=c++20", "-O1", "-Wno-psabi", f"-I{headers}", f"-I{root / 'csrc'}"]
    subprocess.run([simt_kernels.CXX, *flags, *sources, "-o", tmp_path / "window"], check=True, timeout=120)
    subprocess.run([tmp_path / "window"], check=True, timeout=60)


@simt_kernels.needs_compiler
def test_blocks_beyond_32_bits_on_a_gpu(tmp_path):
    """The same of the CUDA kernel's steps, run by csrc/simt."""
    source, output = simt_kernels.ROOT / "tests/csrc/philox_window.cu", tmp_path / "window"
    flags = ["-O1", f"-I{simt_kernels.ROOT / 'csrc'}", *simt_kernels.SANITIZE]
    subprocess.run([*simt_kernels.COMPILE, *flags, source, "-o", output], check=True, timeout=120)
    subprocess.run([output], check=True, timeout=60)


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 1e-3, 0.999])
def test_the_fraction_dropped_is_p(p):
    count = 2**22
    for seed in range(3):
        dropped = count - int(mask(count, p, seed).sum())
        assert abs(dropped - count * p) < SIGMAS * math.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_and_rows_are_independent(p):
    count, q = 2**20, 1 - p
    centred = (mask(count, p, 3).double() - q) / math.sqrt(p * q)
    for lag in (1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256, 1000, 1024, 4096, 65536):
        assert abs(float(centred[:-lag] @ centred[lag:])) < SIGMAS * math.sqrt(count - lag), lag
    for sums in (centred.view(1024, 1024).sum(0), centred.view(1024, 1024).sum(1)):
        chi_square = float((sums**2).sum()) / 1024  # mean 1024, variance 2 * 1024
        assert abs(chi_square - 1024) < SIGMAS * math.sqrt(2 * 1024)


def test_close_seeds_give_unrelated_masks():
    masks = [mask(2**18, 0.5, seed).double() * 2 - 1 for seed in (0, 1, 2, 2**32, 2**62, 2**62 + 1)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(float(one @ other)) < SIGMAS * math.sqrt(2**18)


def kept(x=None, p=0.5):
    return F.dropout(torch.ones(1000) if x is None else x, p) != 0


def test_the_seed_comes_from_torchs_generator():
    torch.manual_seed(3)
    first, second = kept(), kept()
    torch.manual_seed(3)
    assert torch.equal(kept(), first) and torch.equal(kept(), second) and not torch.equal(first, second)
    torch.manual_seed(4)
    assert not torch.equal(kept(), first)
    torch.manual_seed(3)
    with torch.random.fork_rng():
        assert torch.equal(kept(), first)
    assert torch.equal(kept(), first)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_draws_the_same_mask_again(use_reentrant):
    x = torch.ones(1000, requires_grad=True)
    masks = []

    def layer(x):
        y = F.dropout(x * 1.0, 0.5)
        masks.append(y.detach() != 0)
        return y.square()

    checkpoint(layer, x, use_reentrant=use_reentrant).sum().backward()
    assert len(masks) == 2 and torch.equal(*masks) and torch.equal(x.grad != 0, masks[0])
