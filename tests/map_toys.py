"""A tiny network that gives a map of logits, half as large as the image, for tests that have no other."""

from torch import nn


def small_map(num_classes: int, channels: int = 3) -> nn.Sequential:
    """Two convolutions and one of a pixel each."""
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 12, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(12, num_classes, 1))
