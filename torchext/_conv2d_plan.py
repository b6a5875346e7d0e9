"""How our kernels serve a convolution: its options in numbers and the algorithm; or why they cannot."""

from __future__ import annotations

from typing import NamedTuple

import torch

from . import _chosen, _gpu, _op
from ._conv2d_route import CPU, gradient_of, is_winograds, on_cpu, on_gpu
from ._op import either_wants_grad
from ._servable import PLAIN, auto, why_stock
from ._shapes import is_channels_last, out_size, pair, same_padding
from ._table import NATIVE, STOCK

WANTS = (
    "input [n, c, h, w] or [c, h, w], weight [k, c / groups, r, s] and bias [k] or None, of one floating dtype and one "
    "device, and a kernel no larger than the padded image"
)
NAMES = "input", "weight", "bias", "stride", "padding", "dilation", "groups"
CONTIGUOUS_ON_GPU = "on a GPU stock gives float64 channels_last images a contiguous result; ours keeps the format"

LIBRARYS, DIRECTLY, BY_WINOGRAD = range(3)  # the algorithms of csrc/conv2d.cpp, on the CPU
_MOST_SCRATCH = 256 << 20  # bytes that the direct kernel may take
_MOST_EDGE = 1 << 30  # of a padded image: its places are 32 bits


class Geometry(NamedTuple):
    """A convolution's options as our ops take them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Plan(NamedTuple):
    """A convolution that our kernels can serve, and the rows and columns of its result."""

    geometry: Geometry
    out: tuple[int, int]


def plan(stem, x, w, b, stride, padding, dilation, groups) -> Plan | str:
    """How our kernels serve it, or why they cannot."""
    why = why_stock(stem, x, w, b)
    if why is not None:
        return why
    if torch.is_autocast_enabled("cpu" if x.is_cpu else "cuda"):
        return "under autocast"
    stride, dilation = pair(stride), pair(dilation)
    if stride is None or dilation is None or w is None or w.dim() != 4 or x.dim() != 4 or type(groups) is not int:
        return "arguments only stock takes"
    k, group_c, r, s = w.shape
    if type(padding) is str:
        padding = same_padding(padding, stride, dilation, r, s)
    else:
        padding = pair(padding)
    if padding is None or groups < 1 or min(*stride, *dilation) < 1 or min(padding) < 0:
        return "arguments only stock takes"
    _, c, h, width = x.shape
    if c != group_c * groups or k % groups != 0 or (b is not None and b.shape != w.shape[:1]) or not x.numel():
        return "shapes only stock takes"
    p = out_size(h, r, stride[0], padding[0], dilation[0])
    q = out_size(width, s, stride[1], padding[1], dilation[1])
    if p < 1 or q < 1 or not w.numel() or max(h + 2 * padding[0], width + 2 * padding[1]) >= _MOST_EDGE:
        return "shapes only stock takes"
    if x.is_cuda and x.dtype is torch.float64 and (is_channels_last(x) or is_channels_last(w)):
        return CONTIGUOUS_ON_GPU
    return Plan(Geometry(stride, padding, dilation, groups), (p, q))


def algorithm(x, w, plan: Plan) -> int:
    """The one that serves `plan` where ours is asked for whatever the speed; a GPU and Triton have one of their own."""
    if not x.is_cpu or _chosen.name() in _op.SERVED:
        return DIRECTLY
    if is_winograds(x, w, *plan.geometry):
        return BY_WINOGRAD
    return DIRECTLY if scratch(x, w, plan) <= _MOST_SCRATCH else LIBRARYS


def scratch(x, w, plan: Plan) -> int:
    """Bytes that the direct kernel on the CPU takes: so many images as a vector has lanes, and their results twice."""
    lanes, size = (8, 8) if x.dtype is torch.float64 else (16, 4)
    p, q = plan.out
    return lanes * size * (x.shape[1:].numel() + 2 * w.shape[0] * p * q)


def is_single(input, weight) -> bool:
    """One image without its batch dimension."""
    return type(input) in PLAIN and type(weight) in PLAIN and input.dim() == 3 and weight.dim() == 4


def decide(x, w, options, of_gpu):
    """The row of the table that decides on this call and its route; None and ours where it has no say."""
    if type(x) not in PLAIN or type(w) not in PLAIN or w.is_nested or not auto():
        return None, NATIVE
    if x.is_cuda:
        decided = on_gpu(of_gpu, x, w, options[0], either_wants_grad(x, w))
        return decided, STOCK if decided is None else _gpu.convolution_route(*decided)
    decided = on_cpu(x, w, *options, gradient_of(x, w))
    return decided, NATIVE if decided is None else CPU.route(decided[1], decided[2])
