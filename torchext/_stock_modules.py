"""torchext.nn.utils.prune and every other submodule of torch.nn: the import of one gives torch's own module object."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "torchext.nn."
_OURS = "torchext.nn.functional"


def _in_torch(name: str) -> str:
    return f"torch{name.removeprefix('torchext')}"


class _StockModules(MetaPathFinder, Loader):
    """Asked before the path finder, which would run torch's file a second time, as a module of ours."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if not fullname.startswith(_PACKAGE) or fullname == _OURS:
            return None
        spec = importlib.util.find_spec(_in_torch(fullname))
        if spec is None:
            return None
        return ModuleSpec(fullname, self, origin=spec.origin, is_package=spec.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> None:
        """A placeholder: of a module given here the import system would change the `__spec__`."""

    def exec_module(self, module: ModuleType) -> None:
        """The import's result is what lies in sys.modules when this ends."""
        sys.modules[module.__name__] = importlib.import_module(_in_torch(module.__name__))


def serve() -> None:
    """Makes `import torchext.nn.<name>` import `torch.nn.<name>`, except where torchext has its own."""
    sys.meta_path.insert(0, _StockModules())
