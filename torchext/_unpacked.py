"""A package that nobody installed, a source tree or a copy of it: what an installed one's metadata would say of it.

torch.compile finds a backend by its name through importlib.metadata; and asking Dynamo to register it takes 1 s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ._private import dynamo_backends

VERSION = "0.1.0"
_GROUP, _BACKEND = "torch_dynamo_backends", "torchext.compile:torchext_backend"
_FILES = {
    "METADATA": f"Metadata-Version: 2.1\nName: torchext\nVersion: {VERSION}\n",
    "entry_points.txt": f"[{_GROUP}]\ntorchext = {_BACKEND}\n",
}


class _Finder:
    """Asked after the path: of two packages of one name importlib.metadata takes the first, so an installed one."""

    @staticmethod
    def find_spec(*_: Any) -> None:
        return None

    @staticmethod
    def find_distributions(context: Any) -> Iterator[Any]:
        from importlib.metadata import Distribution

        class Unpacked(Distribution):
            def read_text(self, filename: str) -> str | None:
                return _FILES.get(filename)

            def locate_file(self, path: Any) -> Any:
                raise FileNotFoundError(path)

        if context.name in (None, "torchext"):
            yield Unpacked()


def describe() -> None:
    """Tells importlib.metadata of this package where no installation has, and Dynamo, if it is there already.

    Dynamo looks for entry points once, which may have been before there was one to find.
    """
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
    known = dynamo_backends()
    if known is not None:
        from importlib.metadata import EntryPoint

        known.setdefault("torchext", EntryPoint("torchext", _BACKEND, _GROUP))
