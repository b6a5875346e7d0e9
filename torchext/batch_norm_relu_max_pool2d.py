"""batch_norm, ReLU and max-pooling as one op: schema, fake, Function, function, module; as in every op."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from ._batch_norm_relu_max_pool2d_plan import NAMES, WANTS, decide, plan_pool, why_composed
from ._choice import MEASURED, note_ours
from ._gate import call_stock, drop_in
from ._max_pool2d_backward import put
from ._op import Function, define, twice_differentiable, wants_grad
from ._private import check_input_dim
from ._scripting import stock_method
from ._shapes import DEAD, POOL_OPTIONS, UNDILATED, empty_maps, is_channels_last
from ._table import APART
from .max_pool2d import PoolsAtItsEnd, max_pool2d, options_of


def _fake(x, w, b, eps, channels_last, oh, ow, *window):
    y, offsets = (empty_maps(x, channels_last, oh, ow, dtype) for dtype in (x.dtype, torch.uint8))
    statistics = x.new_empty(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    return y, offsets, statistics


def _fake_backward(dy, offsets, x, statistics, w, eps, channels_last, kh, kw, sh, sw, ph, pw, want_dx):
    dx = empty_maps(x, channels_last, *x.shape[-2:]) if want_dx else x.new_empty(0)
    return dx, x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


_forward = define(
    "batch_norm_relu_max_pool2d",
    f"(Tensor x, Tensor? w, Tensor? b, float eps, bool channels_last, SymInt oh, SymInt ow, {UNDILATED})"
    " -> (Tensor, Tensor, Tensor)",
    _fake,
    cpu_only=True,
)
_backward = define(
    "batch_norm_relu_max_pool2d_backward",
    "(Tensor dy, Tensor offsets, Tensor x, Tensor statistics, Tensor? w, float eps, bool channels_last, "
    f"{UNDILATED}, bool want_dx) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
    cpu_only=True,
)


def _composed(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    *, pool_kernel_size, pool_stride=None, pool_padding=0, pool_dilation=1, pool_ceil_mode=False,
):  # fmt: skip
    y = F.relu(F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps))
    return max_pool2d(y, pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode)


def _differentiable(needed, dz, x, w, statistics, eps):
    """Batch norm's gradients in torch's op, which has gradients of any order, in the dtype of the statistics."""
    mean, var = statistics
    w = torch.ones_like(mean) if w is None else w  # without one ATen has no second gradient of the weight's
    dz, wide_x, w = (t.to(mean.dtype) for t in (dz, x, w))
    given = None, None, mean, (var + eps).rsqrt(), True, eps, list(needed)
    results = torch.ops.aten.native_batch_norm_backward(dz, wide_x, w, *given)
    return [t if t is None else t.to(x.dtype) for t in results]


class BatchNormReLUMaxPool2dFunction(Function):
    @staticmethod
    def forward(ctx, x, w, b, eps, channels_last, oh, ow, window):
        y, offsets, statistics = _forward(x, w, b, eps, channels_last, oh, ow, *window)
        need_dx, need_dw, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_dx or need_dw else None, w if need_dx else None, offsets, statistics)
        ctx.mark_non_differentiable(statistics)
        ctx.options = eps, channels_last, window
        return y, statistics

    @staticmethod
    def backward(ctx, dy, _):
        x, w, offsets, statistics = ctx.saved_tensors
        eps, channels_last, window = ctx.options
        need_dx, need_dw, need_db, *_ = ctx.needs_input_grad
        if x is None:
            dx, dw, db = None, None, dy.masked_fill(offsets == DEAD, 0).sum((0, 2, 3))
        elif twice_differentiable():
            dz = put(dy, offsets, (channels_last, *x.shape[-2:], (*window, 1, 1)))
            dx, dw, db = _differentiable((need_dx, need_dw, need_db), dz, x, w, statistics, eps)
        else:
            dx, dw, db = _backward(dy, offsets, x, statistics, w, eps, channels_last, *window, need_dx)
        return dx if need_dx else None, dw if need_dw else None, db if need_db else None, *(None,) * 5


def _track(running: Tensor, batch: Tensor, momentum: float, unbias: float = 1.0) -> None:
    """running = (1 - momentum) running + momentum batch, rounded to running's dtype once.

    Its version stays, as in stock: a pass in evaluation before this one may have saved it.
    """
    running.data.copy_(batch.mul(momentum * unbias).add_(running, alpha=1 - momentum))


def _by_position(*arguments):
    return _composed(*arguments[:8], **dict(zip(POOL_OPTIONS, arguments[8:])))


@drop_in(_composed, WANTS)
def batch_norm_relu_max_pool2d(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    pool_kernel_size,
    pool_stride=None,
    pool_padding=0,
    pool_dilation=1,
    pool_ceil_mode=False,
) -> Tensor:
    r"""Batch norm, ReLU and max-pooling in one. Counterpart of ``F.max_pool2d(F.relu(F.batch_norm(...)), ...)``.

    Training on a CPU is ours: neither the normalised map nor its gradient ever reaches memory, backward has ``input``,
    two numbers a channel and one byte for each result. Elsewhere the three functions run one after the other.

    Args:
        input: ``[n, c, h, w]``, contiguous or channels_last; float64, float32, bfloat16 or float16.
        running_mean, running_var, weight, bias, training, momentum, eps: as :func:`torch.nn.functional.batch_norm`
            takes them; the running statistics are updated in place when training.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode: as
            :func:`torch.nn.functional.max_pool2d` takes them, without the prefix; a window of 1 pools nothing.

    Returns:
        ``[n, c, oh, ow]`` in the memory format of ``input``.

    Raises:
        RuntimeError: the shapes, dtypes or devices do not fit together, or the window does not fit.
        ValueError: training with one element a channel, or with ``eps`` not above 0.

    Example:
        >>> from torchext.nn import functional as F
        >>> x = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 2, 2)
        >>> F.batch_norm_relu_max_pool2d(x, None, None, training=True, pool_kernel_size=2)
        tensor([[[[1.0000]]]])
    """
    pool = (pool_kernel_size, pool_stride, pool_padding, pool_dilation, pool_ceil_mode)
    why = why_composed(input, (running_mean, running_var), weight, bias, training, momentum, eps)
    plan = None if why is not None else plan_pool(input, *pool)
    decided, route = decide(input) if plan is not None else (None, APART)
    if route == APART:
        why = why or (MEASURED if plan is not None else "a pooling only stock takes")
        arguments = input, running_mean, running_var, weight, bias, training, momentum, eps, *pool
        op = "batch_norm_relu_max_pool2d"
        return call_stock(op, why, decided, WANTS, _by_position, NAMES, *arguments)
    note_ours("batch_norm_relu_max_pool2d", "batch_norm_relu_max_pool2d", input, decided)
    oh, ow, window = plan
    channels_last = is_channels_last(input)
    if wants_grad(input, weight, bias):
        y, statistics = BatchNormReLUMaxPool2dFunction.call(input, weight, bias, eps, channels_last, oh, ow, window)
    else:
        y, _, statistics = _forward(input, weight, bias, eps, channels_last, oh, ow, *window)
    if running_mean is not None:
        count = input.numel() // input.shape[1]
        _track(running_mean, statistics[0], momentum)
        _track(running_var, statistics[1], momentum, count / (count - 1))
    return y


def _through_pool(norm: nn.BatchNorm2d, input: Tensor, pool: dict) -> Tensor:
    if not isinstance(input, fx.Proxy):
        check_input_dim(norm, input)
    tracks = norm.training and norm.track_running_stats
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if tracks and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    seen = (norm.running_mean, norm.running_var) if tracks or not norm.training else (None, None)
    of_batch = norm.training or (norm.running_mean is None and norm.running_var is None)
    return batch_norm_relu_max_pool2d(input, *seen, norm.weight, norm.bias, of_batch, momentum, norm.eps, **pool)


class BatchNormReLUMaxPool2d(PoolsAtItsEnd, nn.BatchNorm2d):
    """``MaxPool2d(ReLU(BatchNorm2d(x)))`` in one layer, with :class:`torch.nn.BatchNorm2d`'s arguments and state_dict.

    The options of the pooling follow as keywords; see :func:`batch_norm_relu_max_pool2d`.

    Example:
        >>> from torchext import nn
        >>> nn.BatchNormReLUMaxPool2d(16, pool_kernel_size=2)(torch.randn(2, 16, 28, 28)).shape
        torch.Size([2, 16, 14, 14])
    """

    _stock_forward = stock_method(nn.BatchNorm2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._pool(F.relu(self._stock_forward(input)))
        return _through_pool(self, input, self.pool_options())

    @staticmethod
    def serve(norm: nn.BatchNorm2d, input: Tensor, pool: nn.MaxPool2d) -> Tensor:
        """What `norm`, a ReLU and `pool` give."""
        return _through_pool(norm, input, options_of(pool))
