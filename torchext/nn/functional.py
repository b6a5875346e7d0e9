"""torch.nn.functional, with our functions over it: what is not defined here is torch.nn.functional's own."""

import torch.nn.functional as _stock
from torch.nn.functional import *

from .._scripting import script_as as _script_as
from ..batch_norm_relu_max_pool2d import batch_norm_relu_max_pool2d
from ..conv2d import conv2d, conv2d_relu
from ..conv2d_relu_max_pool2d import conv2d_relu_max_pool2d
from ..cross_entropy import cross_entropy
from ..dropout import alpha_dropout, dropout
from ..dropout_channels import dropout1d, dropout2d, dropout3d, feature_alpha_dropout
from ..linear_cross_entropy import linear_cross_entropy
from ..linear_relu import linear, linear_relu
from ..max_pool2d import max_pool2d, max_pool2d_with_indices

OURS = (
    *("batch_norm_relu_max_pool2d",),
    *("conv2d", "conv2d_relu", "conv2d_relu_max_pool2d"),
    *("cross_entropy", "linear_cross_entropy"),
    *("alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"),
    *("linear", "linear_relu"),
    *("max_pool2d", "max_pool2d_with_indices"),
)

for _name in OURS:
    if hasattr(_stock, _name):
        _script_as(globals()[_name], getattr(_stock, _name))


def __getattr__(name):
    return getattr(_stock, name)


def __dir__():
    return sorted({*globals(), *dir(_stock)})
