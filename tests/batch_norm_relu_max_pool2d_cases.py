"""What the tests of batch_norm_relu_max_pool2d have in common: ours beside stock's, in training, and its options."""

import torch
from torch.nn import functional as stock_F

from torchext.nn import functional as F

LAST = torch.channels_last


def split(options):
    """Options of the pooling without their prefix, and the rest."""
    pool = {k.removeprefix("pool_"): v for k, v in options.items() if k.startswith("pool_")}
    return pool, {k: v for k, v in options.items() if not k.startswith("pool_")}


def ours(x, w=None, b=None, mean=None, var=None, **options):
    return F.batch_norm_relu_max_pool2d(x, mean, var, w, b, **{"training": True, "pool_kernel_size": 2} | options)


def stock(x, w=None, b=None, mean=None, var=None, **options):
    pool, norm = split({"training": True, "pool_kernel_size": 2} | options)
    return stock_F.max_pool2d(stock_F.relu(stock_F.batch_norm(x, mean, var, w, b, **norm)), **pool)


def window(kernel, stride, padding=0, ceil=False):
    return dict(
        zip(("pool_kernel_size", "pool_stride", "pool_padding", "pool_ceil_mode"), (kernel, stride, padding, ceil))
    )
