"""dropout1d, 2d, 3d and feature_alpha_dropout: our mask over channels, spread over each channel by torch's product."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from . import _gpu_route, _route
from ._counterpart import Counterpart
from ._scripting import stock_method
from .dropout import SMALL, WANTS, _dropout, alpha_coefficients, draw_seed, why_small, why_stock


def _channels(x, leading):
    """Ones that spread over x, one for each index of its `leading` dimensions: batch and channel, or channel alone."""
    return x.new_ones(x.shape[:leading] + (1,) * (x.dim() - leading))


def _is_small(x, leading) -> bool:
    if not leading or not _route.auto() or torch.compiler.is_compiling():
        return False
    if x.is_cuda:  # not measured there
        return True
    shape = x.shape
    return (shape[0] if leading == 1 else shape[0] * shape[1]) < SMALL


def _why_stock(x, p, leading, training, inplace) -> str | None:
    if _gpu_route.is_auto_on_gpu(x):
        return _gpu_route.WHY
    return why_stock(x, p, training, inplace) or (None if leading else "a rank on which stock warns or raises")


def _serve(name, stock, ranks, input, p, training, inplace):
    """`ranks` maps the ranks of input that are ours to the number of dimensions that have each a draw of their own."""
    leading = ranks.get(input.dim())
    if training is False or _is_small(input, leading):
        _route.note(name, "stock", why_small(input, training))
        return stock(input, p, training, inplace)
    why = _why_stock(input, p, leading, training, inplace)
    if why is not None:
        return _route.stock(name, why, WANTS, stock, input=input, p=p, training=training, inplace=inplace)
    _route.note_ours(name, "dropout", input)
    noise = _dropout(_channels(input, leading), draw_seed(input), p, 1 / (1 - p), 0.0, 0.0)
    return input.mul_(noise) if inplace else input * noise


@_route.drop_in(F.dropout1d, WANTS)
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, l]`` or ``[c, l]``. Counterpart of :func:`torch.nn.functional.dropout1d`.

    One draw for each of n * c channels, by :func:`dropout`'s rule; saves as many values for backward.

    Example:
        >>> from torchext.nn import functional as F
        >>> (F.dropout1d(torch.ones(2, 3, 4)).std(-1) == 0).all().item()
        True
    """
    return _serve("dropout1d", F.dropout1d, {2: 1, 3: 2}, input, p, training, inplace)


@_route.drop_in(F.dropout2d, WANTS)
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, h, w]``. Counterpart of :func:`torch.nn.functional.dropout2d`, which serves
    other ranks too, with its warnings. See :func:`dropout1d`.
    """
    return _serve("dropout2d", F.dropout2d, {4: 2}, input, p, training, inplace)


@_route.drop_in(F.dropout3d, WANTS)
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, d, h, w]`` or ``[c, d, h, w]``. Counterpart of
    :func:`torch.nn.functional.dropout3d`, which serves other ranks too, with its warnings. See :func:`dropout1d`.
    """
    return _serve("dropout3d", F.dropout3d, {4: 1, 5: 2}, input, p, training, inplace)


@_route.drop_in(F.feature_alpha_dropout, WANTS)
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    r"""Alpha dropout of whole channels of ``[n, c, ...]``. Counterpart of
    :func:`torch.nn.functional.feature_alpha_dropout`. ``training`` is False unless given, as in stock.
    """
    leading = 2 if input.dim() >= 2 else None
    if training is False or _is_small(input, leading):
        _route.note("feature_alpha_dropout", "stock", why_small(input, training))
        return F.feature_alpha_dropout(input, p, training, inplace)
    why = _why_stock(input, p, leading, training, inplace)
    if why is not None:
        arguments = {"input": input, "p": p, "training": training, "inplace": inplace}
        return _route.stock("feature_alpha_dropout", why, WANTS, F.feature_alpha_dropout, **arguments)
    _route.note_ours("feature_alpha_dropout", "dropout", input)
    scale, shift, fill = alpha_coefficients(p)
    ones, seed = _channels(input, 2), draw_seed(input)
    noise = _dropout(ones, seed, p, scale, 0.0, 0.0)
    offset = _dropout(ones, seed, p, 0.0, shift, fill)
    return (input.mul_(noise) if inplace else input * noise).add_(offset)


class Dropout1d(nn.Dropout1d, metaclass=Counterpart):
    """:class:`torch.nn.Dropout1d` on our kernel: same arguments and repr; see :func:`dropout1d`."""

    _stock_forward = stock_method(nn.Dropout1d.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d, metaclass=Counterpart):
    """:class:`torch.nn.Dropout2d` on our kernel: same arguments and repr; see :func:`dropout2d`."""

    _stock_forward = stock_method(nn.Dropout2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d, metaclass=Counterpart):
    """:class:`torch.nn.Dropout3d` on our kernel: same arguments and repr; see :func:`dropout3d`."""

    _stock_forward = stock_method(nn.Dropout3d.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return dropout3d(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(nn.FeatureAlphaDropout, metaclass=Counterpart):
    """:class:`torch.nn.FeatureAlphaDropout` on our kernel; see :func:`feature_alpha_dropout`. ``inplace`` is idle,
    as in stock.
    """

    _stock_forward = stock_method(nn.FeatureAlphaDropout.forward)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._stock_forward(input)
        return feature_alpha_dropout(input, self.p, self.training)
