"""torch.nn, with our classes over it: what is not defined here is torch.nn's own."""

import importlib as _importlib
import sys as _sys

import torch.nn as _stock
from torch.nn import *

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


def __getattr__(name):
    return getattr(_stock, name)


def __dir__():
    return sorted({*globals(), *dir(_stock)})


# `import torchext.nn.init` and the like reach torch.nn's own submodules.
for _name, _module in list(_sys.modules.items()):
    if _name.startswith("torch.nn.") and _name != "torch.nn.functional":
        _sys.modules.setdefault(f"torchext{_name.removeprefix('torch')}", _module)
