"""Exact types: a class of ours passes for the class of torch.nn it stands for, where a tool asks ``type(layer)``.

Quantisation, module fusion and their like look layers up by exact type, in dicts, sets, tuples and with ``==``; fx
traces into a layer unless its ``__module__`` is of torch.nn. What is a subclass of ours stands for itself.
"""

from __future__ import annotations

import abc
import sys
from typing import Any

from torch import nn

# By the id of our class: as a key, the class itself equals torch's.
_STOCK: dict[int, type[nn.Module]] = {}


def stock_of(cls: type) -> type | None:
    """The class of torch.nn that `cls` stands for; None unless `cls` is one of ours."""
    return _STOCK.get(id(cls))


def become_stock(layer: nn.Module) -> None:
    """Gives a layer that is exactly of a class of ours torch's class; leaves any other as it is."""
    stock = stock_of(type(layer))
    if stock is not None:
        layer.__class__ = stock


def _set_attribute(layer: nn.Module, name: str, value: Any) -> None:
    """torch.ao gives a layer that it is about to convert a qconfig, and then compares some classes with ``is``."""
    nn.Module.__setattr__(layer, name, value)
    if name == "qconfig" and value is not None:
        become_stock(layer)


class _Module:
    """A class's ``__module__`` is its own, by which it is pickled; its layers' is torch's, by which fx knows a leaf."""

    def __init__(self, own: str, stock: str):
        self.own, self.stock = own, stock

    def __get__(self, layer: object, cls: type) -> str:
        return self.own if layer is None else self.stock


class _Mro(tuple):
    """Finds a class by identity: Dynamo looks for the one after which ``super()`` begins."""

    def index(self, cls: type, *limits: int) -> int:
        return [id(other) for other in self].index(id(cls), *limits)


class Counterpart(abc.ABCMeta):
    """Metaclass of our classes. One that bears the name of its base in torch.nn equals and hashes as that base.

    An ABCMeta, for users who derive from one of ours and from abc.ABC. Its caches of subclasses compare with ``==``,
    so that for our own classes, with whom nobody registers, type's check serves.
    """

    def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any) -> Counterpart:
        # type() would take the module of its caller, but the caller it sees is abc.
        own = namespace.setdefault("__module__", sys._getframe(1).f_globals.get("__name__"))
        stock = getattr(nn, name, None)
        stands = any(base is stock for base in bases)
        if stands:
            namespace["__module__"] = _Module(own, stock.__module__)
            namespace["__setattr__"] = _set_attribute
        cls = super().__new__(meta, name, bases, namespace, **keywords)
        if stands:
            _STOCK[id(cls)] = stock
        return cls

    @property
    def __mro__(cls) -> tuple[type, ...]:
        return _Mro(type.__dict__["__mro__"].__get__(cls))

    def __eq__(cls, other: object) -> bool:
        return _STOCK.get(id(cls), cls) is _STOCK.get(id(other), other)

    def __hash__(cls) -> int:
        return type.__hash__(_STOCK.get(id(cls), cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return (type if id(cls) in _STOCK else abc.ABCMeta).__subclasscheck__(cls, subclass)

    def __repr__(cls) -> str:
        return f"<class '{cls.__module__}.{cls.__qualname__}'>"
