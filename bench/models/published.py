"""VGG-11 and ResNet-18, their convolutions as published, on 3x64x64."""

import itertools

from .data import classify, images, sgd

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def vgg11(nn, F, batch):
    layers, c = [], 3
    for k in VGG11:
        if k == "pool":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(c, k, 3, padding=1), nn.ReLU(inplace=True)]
            c = k
    head = [nn.Flatten(), nn.Linear(512 * 2 * 2, 512), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(512, 10)]
    model = nn.Sequential(*layers, *head)
    return model, classify(nn), images(batch, 64, 3), sgd(model, momentum=0.9)


def resnet18(nn, F, batch):
    class Block(nn.Module):
        def __init__(self, c, k, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
            self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
            same = c == k and stride == 1
            self.skip = (
                nn.Identity() if same else nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))
            )

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)), inplace=True)
            return F.relu(self.bn2(self.conv2(y)) + self.skip(x))

    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Block(c, k, 1 if c == k else 2) for c, k in itertools.pairwise(widths)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return model, classify(nn), images(batch, 64, 3), sgd(model, momentum=0.9)
