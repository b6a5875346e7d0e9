"""Triton kernels, one file per op: the kernels, then launchers with the op's schema. Importing registers them all.

They run on a GPU, or on the CPU under Triton's interpreter where TRITON_INTERPRET=1 was set before the import.
"""

from . import (  # noqa: F401
    conv2d,
    conv2d_relu_max_pool2d,
    cross_entropy,
    dropout,
    linear_cross_entropy,
    linear_relu,
    max_pool2d,
)
from .launch import INTERPRETED

__all__ = ["INTERPRETED"]
