"""What the tests of linear and linear_relu have in common: ours beside stock's."""

from torch.nn import functional as stock_F

from torchext.nn import functional as F


def stock_linear_relu(x, w, b=None):
    return stock_F.relu(stock_F.linear(x, w, b))


FUNCTIONS = {"linear": (F.linear, stock_F.linear), "linear_relu": (F.linear_relu, stock_linear_relu)}
