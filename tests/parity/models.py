"""Our architectures as PyTorch modules; parameters have torchvision's names, as in our checkpoints."""

import torch
from torch import nn

import keyed


class KeyedDropout(nn.Module):
    """Dropout by the documented mask. The trainer sets `place` to (seed, step, first sample)."""

    def __init__(self, rate, number):
        super().__init__()
        self.rate, self.number, self.place = rate, number, None

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        seed, step, first = self.place
        mask = keyed.dropout_mask(seed, self.number, step, first, tuple(x.shape), self.rate)
        return x * torch.tensor(mask)


class Mlp(nn.Module):
    def __init__(self, widths, dropout=0.0, batch_norm=False):
        super().__init__()
        self.count = len(widths) - 1
        for i in range(1, len(widths)):
            setattr(self, f"fc{i}", nn.Linear(widths[i - 1], widths[i]))
            if i < self.count:
                setattr(self, f"bn{i}", nn.BatchNorm1d(widths[i]) if batch_norm else nn.Identity())
                setattr(self, f"dropout{i}", KeyedDropout(dropout, i - 1))

    def forward(self, x):
        x = x.flatten(1)
        for i in range(1, self.count):
            x = getattr(self, f"bn{i}")(getattr(self, f"fc{i}")(x)).relu()
            x = getattr(self, f"dropout{i}")(x)
        return getattr(self, f"fc{self.count}")(x)


class LeNet(nn.Module):
    def __init__(self, channels, side, dropout=0.0, batch_norm=False):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2, bias=not batch_norm)
        self.bn1 = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, 5, bias=not batch_norm)
        self.bn2 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.fc1 = nn.Linear(16 * ((side // 2 - 4) // 2) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.pool = nn.MaxPool2d(2)
        self.dropout1, self.dropout2 = KeyedDropout(dropout, 0), KeyedDropout(dropout, 1)

    def forward(self, x):
        x = self.pool(self.bn1(self.conv1(x)).relu())
        x = self.pool(self.bn2(self.conv2(x)).relu())
        x = self.dropout1(self.fc1(x.flatten(1)).relu())
        x = self.dropout2(self.fc2(x).relu())
        return self.fc3(x)


class Block(nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or inputs != channels:
            short = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(short, nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """resnet20: three stages of three blocks from 16 channels; resnet18: four of two from 64."""

    def __init__(self, inputs, stages, blocks, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages, before = stages, channels
        for stage in range(stages):
            width = channels << stage
            layers = []
            for block in range(blocks):
                layers.append(Block(before, width, 2 if stage > 0 and block == 0 else 1))
                before = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(before, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


def make(settings, channels, side):
    """The module of a configuration's model section."""
    extra = {"dropout": settings.get("dropout", 0), "batch_norm": settings.get("batch_norm", False)}
    if settings["arch"] == "mlp":
        return Mlp(settings["widths"], **extra)
    if settings["arch"] == "lenet":
        return LeNet(channels, side, **extra)
    return ResNet(channels, *{"resnet20": (3, 3, 16), "resnet18": (4, 2, 64)}[settings["arch"]])


def load(model, arrays):
    """Sets all parameters and buffers; a name too many or too few is an error."""
    tensors = {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = value  # PyTorch's counter: of no use with a fixed momentum, and not saved
    model.load_state_dict(tensors)
