"""The networks courses teach PyTorch on, written as users write them, against `nn` and `F` of either package.

Each maker returns (model, loss(model, batch) -> scalar, batch, optimizer). Dropout is off: curves can be compared.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import models
from bench.models.data import images, sgd

NETWORKS = {}


def network(maker):
    NETWORKS[maker.__name__] = maker
    return maker


def measured(maker, batch=16):
    """A network that bench/models defines and the benchmark measures."""

    def make(nn, F):
        model, *rest = maker(nn, F, batch)
        for layer in model.modules():
            if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
                layer.eval()
        return model, *rest

    NETWORKS[maker.__name__] = make


measured(models.softmax_regression)
measured(models.mlp, 100)
measured(models.mlp_with_dropout)
measured(models.autoencoder)
measured(models.lenet, 64)
measured(models.early_cnn)
measured(models.cnn_with_batch_norm, 20)


@network
def linear_regression(nn, F):
    model, mse = nn.Linear(1, 1), nn.MSELoss()
    x = torch.randn(15, 1)
    return model, lambda m, b: mse(m(b[0]), b[1]), (x, 3 * x + torch.randn(15, 1)), sgd(model, 1e-3)


@network
def logistic_regression(nn, F):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x):
            return torch.sigmoid(self.linear(x))

    model, bce = Model(), nn.BCELoss(reduction="sum")
    batch = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    return model, lambda m, b: bce(m(b[0]), b[1]), batch, sgd(model)


@network
def diabetes_mlp(nn, F):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 1)])
            self.sigmoid = nn.Sigmoid()

        def forward(self, x):
            for layer in self.layers:
                x = self.sigmoid(layer(x))
            return x

    model, bce = Model(), nn.BCELoss()
    batch = torch.randn(32, 8), torch.randint(2, (32, 1)).float()
    return model, lambda m, b: bce(m(b[0]), b[1]), batch, sgd(model, 0.1)


@network
def lstm_classifier(nn, F):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(28, 32, 2, batch_first=True, bidirectional=True)
            self.out = nn.Linear(64, 10)

        def forward(self, x):
            return self.out(self.lstm(x.squeeze(1))[0][:, -1])

    model, loss = Model(), nn.CrossEntropyLoss()
    return model, lambda m, b: loss(m(b[0]), b[1]), images(), torch.optim.Adam(model.parameters(), lr=0.01)


@network
def word_embeddings(nn, F):
    model = nn.Sequential(nn.Embedding(50, 10), nn.Flatten(), nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 50))
    batch = torch.randint(50, (30, 2)), torch.randint(50, (30,))
    return model, lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), dim=1), b[1]), batch, sgd(model, 0.1)


@network
def dcgan_discriminator(nn, F):
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 7), nn.Flatten(), nn.Sigmoid(),
    )  # fmt: skip
    bce = nn.BCELoss()
    return (
        model,
        lambda m, b: bce(m(b[0]), (b[1] % 2).float()[:, None]),
        images(),
        torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999)),
    )


@network
def dcgan_generator(nn, F):
    model = nn.Sequential(
        nn.ConvTranspose2d(20, 32, 7), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    batch = torch.randn(8, 20, 1, 1), torch.randn(8, 1, 28, 28)
    return model, lambda m, b: F.mse_loss(m(b[0]), b[1]), batch, torch.optim.RMSprop(model.parameters(), lr=1e-4)


@network
def residual_network(nn, F):
    class Block(nn.Module):
        def __init__(self, c, k, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
            self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
            self.down = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
            return F.relu(y + self.down(x))

    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        Block(8, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return model, lambda m, b: loss(m(b[0]), b[1]), images(8, 64, 3), sgd(model, 0.01, momentum=0.9)


@network
def vgg(nn, F):
    layers, c = [], 3
    for k in (8, 16, 32):
        layers += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2, 2)]
        c = k
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    loss = nn.CrossEntropyLoss()
    return model.eval(), lambda m, b: loss(m(b[0]), b[1]), images(8, 64, 3), sgd(model, 0.01, momentum=0.9)


@network
def seq2seq_with_attention(nn, F):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 16, padding_idx=0)
            self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
            self.out = nn.Linear(32, 20)

        def forward(self, source, target):
            memory, state = self.encoder(self.embed(source))
            y, _ = self.decoder(self.embed(target), state)
            attention = F.softmax(y @ memory.transpose(1, 2), dim=-1)
            return self.out(torch.cat([y, attention @ memory], -1))

    model, loss = Model(), nn.CrossEntropyLoss(ignore_index=0)
    batch = torch.randint(1, 20, (6, 7)), torch.randint(0, 20, (6, 5))
    return model, lambda m, b: loss(m(*b).transpose(1, 2), b[1]), batch, torch.optim.Adam(model.parameters(), lr=0.01)


@network
def house_prices(nn, F):
    model, mse = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1)), nn.MSELoss()

    def log_rmse(m, b):
        return torch.sqrt(mse(torch.log(torch.clamp(m(b[0]), 1, float("inf"))), torch.log(b[1])))

    for parameter in model.parameters():
        parameter.data.normal_(1.0, 0.1)
    batch = torch.rand(64, 30), 100 * torch.rand(64, 1) + 1
    return model, log_rmse, batch, torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=1e-3)
