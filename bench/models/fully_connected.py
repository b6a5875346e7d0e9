"""Networks of linear layers on 28x28 digits."""

import itertools

from .data import adam, classify, images, sgd


def softmax_regression(nn, F, batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return model, classify(nn), images(batch), sgd(model)


def mlp(nn, F, batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    return model, classify(nn), images(batch), adam(model)


def mlp_with_dropout(nn, F, batch):
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 10),
    )  # fmt: skip
    return model, classify(nn), images(batch), sgd(model)


def autoencoder(nn, F, batch):
    widths = [784, 128, 64, 12, 3]
    layers = [nn.Flatten()]
    for a, b in itertools.pairwise([*widths, *widths[-2::-1]]):
        layers += [nn.Linear(a, b), nn.Tanh()]
    model, mse = nn.Sequential(*layers[:-1], nn.Sigmoid()), nn.MSELoss()
    return model, lambda m, b: mse(m(b[0]), b[0].flatten(1)), images(batch), adam(model)
