"""torchext: torch.nn, faster. Import `torchext.nn` for `torch.nn`; everything else stays as it is.

>>> from torchext import nn
>>> import torchext.nn.functional as F
"""

import torch  # noqa: F401  (torchext._C links against its libraries)

from . import _native, _table_in_force, _unpacked

if _native.missing:
    import warnings

    warnings.warn(f"torchext: on the CPU every op is served by stock torch, since {_native.missing}", stacklevel=2)

from . import nn  # declares every op's schema; the kernels above may be registered before it
from ._backend import backend
from ._choice import Choice, record_routes
from ._flops import register as _register_flops
from ._op import find_gpu_kernels
from .accelerate import accelerate, restore
from .explain import Explanation, explain
from .tuning.model import Tuned, Tuning, tune

find_gpu_kernels()
_table_in_force.load_all()
_unpacked.describe()
_register_flops()
__version__ = _unpacked.VERSION
__all__ = [
    "Choice",
    "Explanation",
    "Tuned",
    "Tuning",
    "accelerate",
    "backend",
    "explain",
    "nn",
    "record_routes",
    "restore",
    "tune",
]
