"""torch.nn.functional, with our functions over it: what is not defined here is torch.nn.functional's own."""

import torch.nn.functional as _stock
from torch.nn.functional import *

from ..linear_relu import linear, linear_relu
from ..max_pool2d import max_pool2d, max_pool2d_with_indices

OURS = ("linear", "linear_relu", "max_pool2d", "max_pool2d_with_indices")


def __getattr__(name):
    return getattr(_stock, name)


def __dir__():
    return sorted({*globals(), *dir(_stock)})
