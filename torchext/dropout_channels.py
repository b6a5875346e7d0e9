"""dropout1d, 2d, 3d and feature_alpha_dropout: our mask over channels, spread over each channel by torch's product."""

from __future__ import annotations

from torch import Tensor, nn
from torch.jit import is_scripting
from torch.nn import functional as F

from ._choice import MEASURED, note_ours
from ._counterpart import Counterpart
from ._gate import call_stock, drop_in
from ._scripting import stock_method
from ._table import STOCK
from .dropout import NAMES, NOT_TRAINING, WANTS, alpha_coefficients, decide, draw_seed, dropped, why_stocks


def _channels(x, leading):
    """Ones that spread over x, one for each index of its `leading` dimensions: batch and channel, or channel alone."""
    return x.new_ones(x.shape[:leading] + (1,) * (x.dim() - leading))


def _decide(x, leading):
    sizes = x.shape
    if not leading:
        return None, None
    return decide(x, sizes[0] if leading == 1 else sizes[0] * sizes[1], True)


def _serve(op, stock, leading, noisy, input, p, training, inplace):
    """`leading` dimensions of the input have each a draw of their own; None where its rank is not ours."""
    if training is False:
        return call_stock(op, NOT_TRAINING, None, WANTS, stock, NAMES, input, p, training, inplace)
    decided, route = _decide(input, leading)
    why = MEASURED if route == STOCK else why_stocks(input, p, training, inplace)
    if why is None and not leading:
        why = "a rank on which stock warns or raises"
    if why is not None:
        return call_stock(op, why, decided, WANTS, stock, NAMES, input, p, training, inplace)
    note_ours(op, "dropout", input, decided)
    return noisy(input, _channels(input, leading), p, inplace)


def _scaled(x, ones, p, inplace):
    noise = dropped(ones, draw_seed(x), p, 1 / (1 - p), 0.0, 0.0)
    return x.mul_(noise) if inplace else x * noise


def _shifted(x, ones, p, inplace):
    """Alpha dropout."""
    scale, shift, fill = alpha_coefficients(p)
    seed = draw_seed(x)
    noise = dropped(ones, seed, p, scale, 0.0, 0.0)
    offset = dropped(ones, seed, p, 0.0, shift, fill)
    return (x.mul_(noise) if inplace else x * noise).add_(offset)


@drop_in(F.dropout1d, WANTS)
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, l]`` or ``[c, l]``. Counterpart of :func:`torch.nn.functional.dropout1d`.

    One draw for each of n * c channels, by :func:`dropout`'s rule; saves as many values for backward.

    Example:
        >>> from torchext.nn import functional as F
        >>> (F.dropout1d(torch.ones(2, 3, 4)).std(-1) == 0).all().item()
        True
    """
    return _serve("dropout1d", F.dropout1d, {2: 1, 3: 2}.get(input.dim()), _scaled, input, p, training, inplace)


@drop_in(F.dropout2d, WANTS)
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, h, w]``. Counterpart of :func:`torch.nn.functional.dropout2d`, which serves
    other ranks too, with its warnings. See :func:`dropout1d`.
    """
    return _serve("dropout2d", F.dropout2d, {4: 2}.get(input.dim()), _scaled, input, p, training, inplace)


@drop_in(F.dropout3d, WANTS)
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    r"""Zeroes whole channels of ``[n, c, d, h, w]`` or ``[c, d, h, w]``. Counterpart of
    :func:`torch.nn.functional.dropout3d`, which serves other ranks too, with its warnings. See :func:`dropout1d`.
    """
    return _serve("dropout3d", F.dropout3d, {4: 1, 5: 2}.get(input.dim()), _scaled, input, p, training, inplace)


@drop_in(F.feature_alpha_dropout, WANTS)
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    r"""Alpha dropout of whole channels of ``[n, c, ...]``. Counterpart of
    :func:`torch.nn.functional.feature_alpha_dropout`. ``training`` is False unless given, as in stock.
    """
    leading = 2 if input.dim() >= 2 else None
    return _serve("feature_alpha_dropout", F.feature_alpha_dropout, leading, _shifted, input, p, training, inplace)


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
