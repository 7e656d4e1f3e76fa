"""What several families share."""

from torch import nn


def global_average() -> nn.Sequential:
    """[B, width, H, W] -> [B, width], whatever the size of the map."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def start_convolutions(network: nn.Module) -> None:
    """First weights of convolutions after He et al. (ICCV 2015), by the number of outputs; their biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
