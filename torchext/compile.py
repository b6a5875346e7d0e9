"""torch.compile(model, backend="torchext"): the same fusions on any graph Dynamo traces, functional style included."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional as stock

from . import _private
from .nn import functional as F

_RELU = (stock.relu, torch.relu, torch.Tensor.relu, "relu")
_LINEAR = (stock.linear, F.linear)
_CONV = (stock.conv2d, torch.conv2d, F.conv2d)
_POOL = (stock.max_pool2d, torch.max_pool2d, F.max_pool2d)


def torchext_backend(
    graph: GraphModule,
    example_inputs: list[torch.Tensor],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable:
    """Dynamo backend: stock functions become ours, chains of them our fused ones; the graph then runs as it is.

    A chain is fused where its calls follow each other and nobody else uses what lies between them: whatever stands in
    between, a change of `x` in place or the end of a ``no_grad`` block, may tell the calls apart.

    Args:
        graph, example_inputs: what Dynamo traced, and what it is traced with.
        mode, options: as :func:`torch.compile` takes them for its own backends; ignored, with one warning.

    Returns:
        The function that runs the graph.

    Raises:
        RuntimeError: `mode` is none of torch's modes.
        TypeError: `options` is not a dict with names as keys.

    Example:
        >>> layer = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> torch.compile(layer, backend="torchext", fullgraph=True)(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """
    _ignore(mode, options)
    for node in list(graph.graph.nodes):
        _fuse_relu(node)
    for node in list(graph.graph.nodes):
        _fuse_pool(node)
    replacements = {getattr(stock, name): getattr(F, name) for name in F.OURS if hasattr(stock, name)}
    replacements |= {torch.conv2d: F.conv2d, torch.max_pool2d: F.max_pool2d}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in replacements:
            node.target = replacements[node.target]
    graph.graph.lint()
    graph.recompile()
    return graph.forward


def _ignore(mode: str | None, options: dict[str, Any] | None) -> None:
    given = []
    if mode not in (None, "default"):
        modes = _private.compile_modes()
        if modes is not None and mode not in modes:
            raise RuntimeError(f"torch.compile: mode is {mode!r}, expected one of {', '.join(map(repr, modes))}")
        given.append(f"mode={mode!r}")
    if options is not None:
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise TypeError(f"torch.compile: options is {options!r}, expected a dict with names of options as keys")
        given += [f"options[{name!r}]" for name in options]
    if given:
        _warn_once(", ".join(given))


@functools.cache
def _warn_once(ignored: str) -> None:
    warnings.warn(f'torch.compile(backend="torchext") ignores {ignored}: it has one way to compile', stacklevel=2)


def _calls(node: Node, targets: tuple) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def _producer(node: Node, input: object) -> Node | None:
    """What computes `input`, if it is the call right before `node`, and `node` alone uses the result."""
    last = node.prev
    while last.op in ("placeholder", "get_attr"):
        last = last.prev
    return last if last is input and len(last.users) == 1 else None


def _absorb(node: Node, producer: Node, target: Callable, **extra: object) -> Node:
    """Replaces both by target(producer's arguments)."""
    graph = node.graph
    with graph.inserting_before(node):
        fused = graph.call_function(target, producer.args, {**producer.kwargs, **extra})
    fused.meta = node.meta
    node.replace_all_uses_with(fused)
    graph.erase_node(node)
    graph.erase_node(producer)
    return fused


def _rectified(node: Node) -> Node | None:
    """The producer of what `node` rectifies, if it does, and not in place."""
    if not _calls(node, _RELU):
        return None
    arguments = dict(zip(("input", "inplace"), node.args)) | node.kwargs
    return None if arguments.get("inplace") else _producer(node, arguments.get("input"))


def _fuse_relu(node: Node) -> None:
    producer = _rectified(node)
    if producer is None:
        return
    if _calls(producer, _LINEAR):
        _absorb(node, producer, F.linear_relu)
    elif _calls(producer, _CONV):
        _absorb(node, producer, F.conv2d_relu)


_POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def _fuse_pool(node: Node) -> None:
    if not _calls(node, _POOL):
        return
    window = dict(zip(_POOL_ARGUMENTS, node.args)) | node.kwargs
    producer = _producer(node, window.pop("input", None))
    if producer is None or window.pop("return_indices", False):
        return
    pool = {f"pool_{k}": v for k, v in window.items()}
    if _calls(producer, (F.conv2d_relu,)):
        _absorb(node, producer, F.conv2d_relu_max_pool2d, **pool)
        return
    norm = _rectified(producer)
    if norm is not None and _calls(norm, (stock.batch_norm,)):
        both = _absorb(producer, norm, stock.batch_norm)
        _absorb(node, both, F.batch_norm_relu_max_pool2d, **pool)
