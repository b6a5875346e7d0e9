"""What the tests of conv2d and conv2d_relu have in common: ours beside stock's, layouts, and the choice of kernel."""

import pytest
import torch
from torch.nn import functional as stock_F

from torchext import _chosen, _conv2d_plan
from torchext.nn import functional as F

LAST = torch.channels_last


def stock_conv2d_relu(*args, **options):
    return stock_F.relu(stock_F.conv2d(*args, **options))


FUNCTIONS = {"conv2d": (F.conv2d, stock_F.conv2d), "conv2d_relu": (F.conv2d_relu, stock_conv2d_relu)}
LAYOUTS = {
    "channels permuted": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "sliced": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand(t.shape),
    "channels_last": lambda t: t.to(memory_format=LAST),
}


def bound(function, **options):
    return lambda *tensors: function(*tensors, **options)


def both(pair, **options):
    return tuple(bound(function, **options) for function in pair)


@pytest.fixture(params=["direct", "library"])
def conv2d_kernel(request, monkeypatch):
    """Both kernels behind the op, regardless of the measured rule."""
    if request.param == "library" and _chosen.name() != "native":
        pytest.skip("on a GPU one kernel serves both")
    kernel = _conv2d_plan.DIRECTLY if request.param == "direct" else _conv2d_plan.LIBRARYS
    chosen = _conv2d_plan.algorithm

    def algorithm(x, w, plan):
        found = chosen(x, w, plan)
        return found if found == _conv2d_plan.BY_WINOGRAD else kernel

    monkeypatch.setattr(_conv2d_plan, "algorithm", algorithm)
    return request.param
