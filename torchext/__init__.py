"""torchext: torch.nn, faster. Import `torchext.nn` for `torch.nn`; everything else stays as it is.

>>> from torchext import nn
>>> import torchext.nn.functional as F
"""

import torch  # noqa: F401  (torchext._C links against its libraries)

from . import _route, _unpacked

try:
    from . import _C
except ImportError as error:
    import warnings

    _C = None
    _route._missing = f"torchext._C could not be loaded ({error})"
    warnings.warn(f"torchext: on the CPU every op is served by stock torch, since {_route._missing}", stacklevel=2)

from . import nn  # declares every op's schema; the kernels above may be registered before it
from ._flops import register as _register_flops
from ._op import find_gpu_kernels
from ._route import Choice, backend, record_routes
from .accelerate import accelerate, restore
from .explain import Explanation, explain

find_gpu_kernels()
_unpacked.describe()
_register_flops()
__version__ = _unpacked.VERSION
__all__ = ["Choice", "Explanation", "accelerate", "backend", "explain", "nn", "record_routes", "restore"]
