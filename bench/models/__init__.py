"""Whole networks as courses write them, on `nn` and `F` of either package: one maker each.

maker(nn, F, batch) -> (model, loss(model, batch) -> scalar, batch, optimizer)
"""

from .convolutional import cnn_with_batch_norm, early_cnn, lenet
from .fully_connected import autoencoder, mlp, mlp_with_dropout, softmax_regression
from .published import resnet18, vgg11

__all__ = [
    "autoencoder",
    "cnn_with_batch_norm",
    "early_cnn",
    "lenet",
    "mlp",
    "mlp_with_dropout",
    "resnet18",
    "softmax_regression",
    "vgg11",
]
