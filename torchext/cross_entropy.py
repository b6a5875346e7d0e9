"""cross_entropy: schema, fake, Function, function, module; in that order, as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import _reduction
from torch.nn import functional as F

from . import _gpu_route, _route
from ._counterpart import Counterpart
from ._op import Function, define, recompute_backward, twice_differentiable, wants_grad
from ._route import PLAIN
from ._scripting import stock_method

_NONE, _MEAN, _SUM = 0, 1, 2
_REDUCTIONS = {"none": _NONE, "mean": _MEAN, "sum": _SUM}


def _classes_last(t):
    return t.dim() > 2 and t.movedim(1, -1).is_contiguous()


def _fake_gradient(x, target):
    if x.is_contiguous() or (_classes_last(x) and (target.dtype == torch.int64 or _classes_last(target))):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def _fake(x, target, weight, ignore_index, label_smoothing, reduction):
    positions = x.shape[:1] + x.shape[2:] if x.dim() > 1 else ()
    loss = x.new_empty(positions if reduction == _NONE else ())
    count = 1
    for size in positions:
        count = count * size
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return loss, x.new_empty((2 if target.dtype == torch.int64 else 3) * count + 1, dtype=dtype)


def _fake_backward(dloss, x, target, weight, stats, ignore_index, label_smoothing, reduction):
    return _fake_gradient(x, target)


_cross_entropy = define(
    "cross_entropy",
    "(Tensor x, Tensor target, Tensor? weight, int ignore_index, float label_smoothing, int reduction)"
    " -> (Tensor loss, Tensor stats)",
    _fake,
)
_cross_entropy_backward = define(
    "cross_entropy_backward",
    "(Tensor dloss, Tensor x, Tensor target, Tensor? weight, Tensor stats, int ignore_index, float label_smoothing,"
    " int reduction) -> Tensor",
    _fake_backward,
)

# Up to so many logits stock's three calls from C++ are sooner done than one autograd.Function's: (64, 10) takes them 43
# us, ours 48. Of 16 classes on stock's rows fill its vectors.
_TINY, _TINY_OF_MANY_CLASSES = 1 << 10, 1 << 15
_stock = torch._C._nn.cross_entropy_loss
_is_grad_enabled, _is_compiling = torch.is_grad_enabled, torch.compiler.is_compiling  # 0.1 us less than by their names
_WHY_TINY = "stock measured faster with gradient of so few logits"


def _is_tiny_of_many(x):
    return x.numel() <= _TINY_OF_MANY_CLASSES and x.dim() > 1 and x.shape[1] >= 16


def _is_faster_on_gpu(x, target):
    """Of class indices; probabilities were not measured there."""
    size, dims = x.numel(), x.dim()
    if _gpu_route.is_small("cross_entropy", size) or dims < 2 or target.dtype is not torch.int64:
        return False
    classes = x.shape[1]
    if dims > 2:
        kind = "cross_entropy of planes"
    elif classes <= 512:
        kind = "cross_entropy to 32 classes" if classes <= 32 else "cross_entropy to 512 classes"
    else:
        kind = "cross_entropy"
    return _gpu_route.is_faster("cross_entropy", kind, x.dtype, size)


def _stock_is_faster(x, target) -> bool:
    if x.is_cuda:
        return not _is_faster_on_gpu(x, target)
    return x.requires_grad and (x.numel() <= _TINY or _is_tiny_of_many(x)) and _is_grad_enabled()


def _target_gradient(dloss, x, target, weight, label_smoothing, reduction):
    classes = 1 if x.dim() > 1 else 0
    gradient = x.log_softmax(classes) * (label_smoothing - 1)
    if weight is not None:
        gradient = gradient * weight.view(-1, *[1] * (x.dim() - classes - 1))
    if reduction == _MEAN:
        dloss = dloss / (x.numel() // x.shape[classes])
    return gradient * (dloss.unsqueeze(classes) if reduction == _NONE else dloss)


def stock_by_positions(x, target, weight, ignore_index, label_smoothing, reduction):
    """Stock's loss, all positions along one dimension: in more it takes nll_loss2d, which sums atomically on a GPU."""
    places = x.shape[:1] + x.shape[2:]
    if x.dim() > 2:
        x = x.movedim(1, -1).flatten(0, -2)
        target = target.flatten() if target.dtype == torch.int64 else target.movedim(1, -1).flatten(0, -2)
    loss = _stock(x, target, weight, reduction, ignore_index, label_smoothing)
    return loss.view(places) if reduction == _NONE and len(places) > 1 else loss


def _recompute(ctx, dloss, x, target, weight):
    def stock(x, target, weight):
        return stock_by_positions(x, target, weight, *ctx.options)

    return *recompute_backward(stock, (x, target, weight), dloss, ctx.needs_input_grad[:3]), None


class CrossEntropyFunction(Function):
    @staticmethod
    def forward(ctx, x, target, weight, options):
        loss, stats = _cross_entropy(x, target, weight, *options)
        ctx.save_for_backward(x, target, weight, stats)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, dloss):
        x, target, weight, stats = ctx.saved_tensors
        if twice_differentiable():
            return _recompute(ctx, dloss, x, target, weight)
        dx = _cross_entropy_backward(dloss, x, target, weight, stats, *ctx.options)
        dtarget = None
        if ctx.needs_input_grad[1]:
            _, label_smoothing, reduction = ctx.options
            dtarget = _target_gradient(dloss, x, target, weight, label_smoothing, reduction)
        return dx, dtarget, None, None


_WANTS = (
    "input [n, c, ...] or [c], target [n, ...] of int64 class indices or [n, c, ...] of class probabilities, "
    "weight [c] or None, of one floating dtype and one device, label_smoothing in [0, 1]"
)


def are_options(reduction, label_smoothing) -> bool:
    """Whether our kernels know them."""
    is_number = type(label_smoothing) in (float, int)
    return isinstance(reduction, str) and reduction in _REDUCTIONS and is_number and 0 <= label_smoothing <= 1


def _why_stock(x, target, weight, ignore_index, label_smoothing, reduction) -> str | None:
    why = _route.why_stock("cross_entropy", x, weight)
    if why is not None:
        return why
    if type(target) not in PLAIN or target.is_cpu is not x.is_cpu or (target.is_cuda and target.device != x.device):
        return _route._why_tensor("cross_entropy", target) or "target on another device"
    sizes, target_sizes = x.shape, target.shape
    dims = len(sizes)
    if target.dtype is torch.int64:
        if dims == 2:
            fits = len(target_sizes) == 1 and target_sizes[0] == sizes[0]
        else:
            fits = dims > 0 and target_sizes == sizes[:1] * (dims > 1) + sizes[2:]
    else:
        fits = target.dtype is x.dtype and target_sizes == sizes and dims > 0 and ignore_index < 0
    if not fits:
        return "a target only stock takes"
    classes = sizes[dims > 1]
    if classes == 0 or (weight is not None and (weight.shape != (classes,) or weight.requires_grad)):
        return "no classes" if classes == 0 else "a weight only stock takes"
    if type(ignore_index) is not int or not are_options(reduction, label_smoothing):
        return "options only stock takes"
    return _gpu_route.WHY if _gpu_route.is_auto_on_gpu(x) and not _is_faster_on_gpu(x, target) else None


@_route.drop_in(F.cross_entropy)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Softmax cross-entropy of logits. Counterpart of :func:`torch.nn.functional.cross_entropy`.

    :math:`-\sum_j q_j \log \mathrm{softmax}(x)_j` at every position, :math:`q` the target weights of the classes.
    Saves two numbers a position beside ``input``.

    Args:
        input: :math:`x`, ``[n, c, ...]`` or ``[c]``; float64, float32, bfloat16 or float16 for ours, else stock's.
        target: class indices, int64 ``[n, ...]``, each in ``[0, c)`` or ``ignore_index``; or class probabilities,
            shaped like ``input``.
        weight: of each class, ``[c]``, or None.
        size_average, reduce: deprecated; as in torch they override ``reduction``.
        ignore_index: the index of positions that count for nothing.
        reduction: "mean" (over the weights of the targets not ignored), "sum" or "none".
        label_smoothing: the share of every target, 0 to 1, that is spread over all classes.

    Returns:
        The loss, a scalar or, for "none", ``[n, ...]``. The mean of nothing is NaN, and its gradient 0;
        so is the mean over targets whose weights are all 0, and its gradient NaN.

    Raises:
        IndexError: an index is neither in ``[0, c)`` nor ``ignore_index``.
        RuntimeError, ValueError: the arguments do not fit together.

    Example:
        >>> from torchext.nn import functional as F
        >>> F.cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    if (
        type(input) in PLAIN
        and type(target) in PLAIN
        and _route.auto()
        and _stock_is_faster(input, target)
        and isinstance(reduction, str)
        and reduction in _REDUCTIONS
        and size_average is reduce is None
        and not _is_compiling()
    ):
        _route.note("cross_entropy", "stock", _gpu_route.WHY if input.is_cuda else _WHY_TINY)
        try:
            return _stock(input, target, weight, _REDUCTIONS[reduction], ignore_index, label_smoothing)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise _route.refusal("cross_entropy", _WANTS, error, input=input, target=target, weight=weight) from None
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if torch.is_autocast_enabled("cuda" if isinstance(input, Tensor) and input.is_cuda else "cpu"):
        input, target, weight = _float32(input), _float32(target), _float32(weight)
    why = _why_stock(input, target, weight, ignore_index, label_smoothing, reduction)
    if why is not None:
        return _route.stock(
            "cross_entropy", why, _WANTS, F.cross_entropy, input=input, target=target, weight=weight,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip
    _route.note_ours("cross_entropy", "cross_entropy", input)
    options = ignore_index, label_smoothing, _REDUCTIONS[reduction]
    try:
        if wants_grad(input, target):
            return CrossEntropyFunction.call(input, target, weight, options)
        return _cross_entropy(input, target, weight, *options)[0]
    except RuntimeError as error:
        if "is out of bounds" in str(error):
            raise IndexError(str(error)) from None
        raise


def _float32(t):
    return t.float() if isinstance(t, Tensor) and t.dtype in (torch.bfloat16, torch.float16) else t


class CrossEntropyLoss(nn.CrossEntropyLoss, metaclass=Counterpart):
    """:class:`torch.nn.CrossEntropyLoss` on our kernels: same arguments and state_dict; see :func:`cross_entropy`.

    Example:
        >>> from torchext import nn
        >>> nn.CrossEntropyLoss()(torch.zeros(2, 4), torch.tensor([1, 3]))
        tensor(1.3863)
    """

    _stock_forward = stock_method(nn.CrossEntropyLoss.forward)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input, target)
        return cross_entropy(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
