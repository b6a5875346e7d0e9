"""torch.nn, with our classes over it: what is not defined here is torch.nn's own."""

import importlib as _importlib
import typing as _typing

import torch.nn as _stock
from torch.nn import *

from .. import _stock_modules
from ..batch_norm_relu_max_pool2d import BatchNormReLUMaxPool2d
from ..conv2d import Conv2d, ConvReLU2d
from ..conv2d_relu_max_pool2d import ConvReLUMaxPool2d
from ..cross_entropy import CrossEntropyLoss
from ..dropout import AlphaDropout, Dropout
from ..dropout_channels import Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout
from ..linear_cross_entropy import LinearCrossEntropyLoss
from ..linear_relu import Linear, LinearReLU
from ..max_pool2d import MaxPool2d
from ..sequential import Sequential

_stock_modules.serve()
# By name: `from . import functional` would find torch.nn's, which the star above brought in.
functional = _importlib.import_module(".functional", __name__)

OURS = (
    *("BatchNormReLUMaxPool2d",),
    *("Conv2d", "ConvReLU2d", "ConvReLUMaxPool2d"),
    *("CrossEntropyLoss", "LinearCrossEntropyLoss"),
    *("AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"),
    *("Linear", "LinearReLU"),
    *("MaxPool2d",),
    *("Sequential",),
)


# As stock's are, types and no strings: torch.fx writes them into the code of a graph.
for _name in OURS:
    _forward = globals()[_name].forward
    _forward.__annotations__ = _typing.get_type_hints(_forward)


def __getattr__(name):
    return getattr(_stock, name)


def __dir__():
    return sorted({*globals(), *dir(_stock)})
