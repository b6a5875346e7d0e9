"""What the tests of max_pool2d have in common: layouts, windows, stock's pooling, and all of our ops on one map."""

import torch
from torch.nn import functional as stock_F

from torchext._shapes import out_size, window_of

NAN, INF = float("nan"), float("inf")
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": channels_last,
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "every other channel, channels_last": lambda t: channels_last(t.repeat_interleave(2, 1))[:, ::2],
    "rows and columns swapped": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda t: t[:1].expand(t.shape),
}
# kernel, stride, padding, dilation, ceil: each path through the kernels
WINDOWS = [
    (2, 2, 0, 1, False),
    (2, 2, 0, 1, True),
    (2, 2, 1, 1, False),
    (3, 2, 1, 1, False),
    (3, 1, 1, 1, True),
    (3, 3, 0, 1, False),
    ((3, 2), (1, 2), (1, 0), (2, 1), False),
    ((1, 5), (3, 1), (0, 2), 1, True),
    (5, (2, 4), 2, (1, 3), True),
    (1, 2, 0, 1, False),
]


def stock_pool(x, *window):
    return stock_F.max_pool2d(x, *window, return_indices=True)


def run(overload, x, window, last, dead=False):
    """y, offsets, indices and dx; with `dead`, every third output passes no gradient."""
    kernel, stride, padding, dilation, ceil = window
    flat = window_of(kernel, stride, padding, dilation)
    kh, kw, sh, sw, ph, pw, dh, dw = flat
    oh, ow = out_size(x.shape[-2], kh, sh, ph, dh, ceil), out_size(x.shape[-1], kw, sw, pw, dw, ceil)
    op = lambda name: getattr(getattr(torch.ops.torchext, name), overload)
    y, offsets = op("max_pool2d")(x, last, True, oh, ow, *flat)
    indices = op("max_pool2d_indices")(offsets, last, x.shape[-1], *flat)
    if dead:
        offsets = offsets.clone()
        offsets.flatten()[::3] = 255
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
    dx = op("max_pool2d_backward")(dy, offsets, last, *x.shape[-2:], *flat)
    assert op("max_pool2d")(x, last, False, oh, ow, *flat)[1].numel() == 0
    return y, offsets, indices, dx
