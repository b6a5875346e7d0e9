"""torch.nn, with our classes over it: what is not defined here is torch.nn's own."""

import sys as _sys

import torch.nn as _stock
from torch.nn import *  # noqa: F403

from ..linear_relu import Linear, LinearReLU
from . import functional

OURS = ("Linear", "LinearReLU")


def __getattr__(name):
    return getattr(_stock, name)


def __dir__():
    return sorted({*globals(), *dir(_stock)})


# `import torchext.nn.init` and the like reach torch.nn's own submodules.
for _name, _module in list(_sys.modules.items()):
    if _name.startswith("torch.nn.") and _name != "torch.nn.functional":
        _sys.modules.setdefault(f"torchext{_name.removeprefix('torch')}", _module)
