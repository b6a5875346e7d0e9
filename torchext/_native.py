"""The compiled extension: `C` is torchext._C; None where it could not be loaded, and `missing` says why."""

from __future__ import annotations

import importlib
from typing import Any

missing: str | None = None

try:
    C: Any = importlib.import_module(f"{__package__}._C")
except ImportError as error:
    C = None
    missing = f"torchext._C could not be loaded ({error})"
