"""LeNet in functional style, the 1990s network before it, and a small network with batch normalisation."""

from .data import adam, classify, images, sgd


def lenet(nn, F, batch):
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
            x = F.max_pool2d(F.relu(self.conv2(x)), 2)
            x = x.view(-1, 256)
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x)

    model = LeNet()
    return model, classify(nn), images(batch), sgd(model, 1e-3)


def early_cnn(nn, F, batch):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 12, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(300, 10)
    )
    return model, classify(nn), images(batch, 32), sgd(model)


def cnn_with_batch_norm(nn, F, batch):
    def block(c, k):
        return nn.Sequential(nn.Conv2d(c, k, 5, padding=2), nn.BatchNorm2d(k), nn.ReLU(), nn.MaxPool2d(2))

    model = nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(1568, 10))
    return model, classify(nn), images(batch), adam(model)
