"""What the tests of conv2d_relu_max_pool2d have in common: ours beside stock's, by default with 2 x 2 windows."""

import torch
from torch.nn import functional as stock_F

from torchext.nn import functional as F

LAST = torch.channels_last
WINDOW = {"pool_kernel_size": 2}


def ours(*tensors, **options):
    return F.conv2d_relu_max_pool2d(*tensors, **WINDOW | options)


def stock(*tensors, **options):
    options = WINDOW | options
    pool = {name.removeprefix("pool_"): options.pop(name) for name in list(options) if name.startswith("pool_")}
    return stock_F.max_pool2d(stock_F.relu(stock_F.conv2d(*tensors, **options)), **pool)
