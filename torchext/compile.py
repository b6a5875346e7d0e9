"""torch.compile(model, backend="torchext"): the same fusions on any graph Dynamo traces, functional style included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional as stock

from .nn import functional as F

_RELU = (stock.relu, torch.relu, torch.Tensor.relu, "relu")
_LINEAR = (stock.linear, torch._C._nn.linear, F.linear)
_CONV = (stock.conv2d, torch.conv2d, F.conv2d)
_POOL = (stock.max_pool2d, torch.max_pool2d, F.max_pool2d)


def torchext_backend(graph: GraphModule, example_inputs: list[torch.Tensor]) -> Callable:
    """Dynamo backend: stock functions become ours, chains of them our fused ones; the graph then runs as it is."""
    for node in list(graph.graph.nodes):
        _fuse_relu(graph, node)
    for node in list(graph.graph.nodes):
        _fuse_pool(graph, node)
    replacements = {getattr(stock, name): getattr(F, name) for name in F.OURS if hasattr(stock, name)}
    replacements |= {torch._C._nn.linear: F.linear, torch.conv2d: F.conv2d, torch.max_pool2d: F.max_pool2d}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in replacements:
            node.target = replacements[node.target]
    graph.graph.lint()
    graph.recompile()
    return graph.forward


def _calls(node: object, targets: tuple) -> bool:
    return isinstance(node, Node) and node.op in ("call_function", "call_method") and node.target in targets


def _absorb(graph: GraphModule, node: Node, producer: Node, target: Callable, **extra: object) -> None:
    """Replaces `node` by target(producer's arguments): producer must have no other user."""
    with graph.graph.inserting_before(node):
        fused = graph.graph.call_function(target, producer.args, {**producer.kwargs, **extra})
    fused.meta = node.meta
    node.replace_all_uses_with(fused)
    graph.graph.erase_node(node)
    graph.graph.erase_node(producer)


def _fuse_relu(graph: GraphModule, node: Node) -> None:
    if not _calls(node, _RELU):
        return
    arguments = dict(zip(("input", "inplace"), node.args)) | node.kwargs
    producer = arguments["input"]
    if arguments.get("inplace"):
        return
    if _calls(producer, _LINEAR) and len(producer.users) == 1:
        _absorb(graph, node, producer, F.linear_relu)
    elif _calls(producer, _CONV) and len(producer.users) == 1:
        _absorb(graph, node, producer, F.conv2d_relu)


_POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def _fuse_pool(graph: GraphModule, node: Node) -> None:
    if not _calls(node, _POOL):
        return
    window = dict(zip(_POOL_ARGUMENTS, node.args)) | node.kwargs
    producer = window.pop("input", None)
    if window.pop("return_indices", False):
        return
    pool = {f"pool_{k}": v for k, v in window.items()}
    if _calls(producer, (F.conv2d_relu,)) and len(producer.users) == 1:
        _absorb(graph, node, producer, F.conv2d_relu_max_pool2d, **pool)
    elif _rectifies_norm(producer):
        norm = producer.args[0]
        producer.replace_all_uses_with(norm)
        graph.graph.erase_node(producer)
        _absorb(graph, node, norm, F.batch_norm_relu_max_pool2d, **pool)


def _rectifies_norm(node: object) -> bool:
    """Whether `node` is a ReLU of a batch norm, and neither has another user than the next."""
    if not _calls(node, _RELU) or node.kwargs.get("inplace") or len(node.args) != 1 or len(node.users) != 1:
        return False
    norm = node.args[0]
    return _calls(norm, (stock.batch_norm,)) and len(norm.users) == 1
