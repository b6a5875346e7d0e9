"""The compiled extension: `C` is torchext._C; None where it could not be loaded, and `missing` says why."""

from __future__ import annotations

from typing import Any

C: Any = None
missing: str | None = None

try:
    from . import _C as C
except ImportError as error:
    missing = f"torchext._C could not be loaded ({error})"
