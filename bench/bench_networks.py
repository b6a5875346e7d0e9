"""Whole training steps of the networks courses teach; batch 64 or the course's own, and 512."""

from . import models
from .harness import networks

test_networks = networks(
    [
        ("softmax regression", models.softmax_regression, (64, 512)),
        ("MLP", models.mlp, (100, 512)),
        ("MLP with dropout", models.mlp_with_dropout, (64, 512)),
        ("autoencoder", models.autoencoder, (64, 512)),
        ("LeNet", models.lenet, (64, 512)),
        ("early CNN", models.early_cnn, (64, 512)),
        ("CNN with batch norm", models.cnn_with_batch_norm, (100, 512)),
        ("VGG-11 3x64x64", models.vgg11, (4,)),
        ("ResNet-18 3x64x64", models.resnet18, (4,)),
    ]
)
