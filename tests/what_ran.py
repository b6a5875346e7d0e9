"""Fixtures that record what the dispatcher ran and what a function saved; unlike users' modes and hooks, ours too."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Trace(TorchDispatchMode):
    sees_torchext = True

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ops.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def trace():
    """`with trace() as ops:` lists every op that the dispatcher ran, backward included."""

    class Traced:
        def __enter__(self):
            self.mode = _Trace()
            self.mode.__enter__()
            return self.mode.ops

        def __exit__(self, *exception):
            return self.mode.__exit__(*exception)

    return Traced


@pytest.fixture
def saved_bytes():
    """Counts the bytes `function(*inputs)` saves for backward beyond its inputs and results."""

    def count(function, *inputs):
        saved = {}
        known = {t.untyped_storage().data_ptr() for t in inputs if t is not None}

        def pack(t):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        pack.sees_torchext = True
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            results = function(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        known |= {t.untyped_storage().data_ptr() for t in results}
        return sum(size for storage, size in saved.items() if storage not in known)

    return count
