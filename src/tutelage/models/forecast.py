"""Networks that forecast: values [B, channels, window] -> mean and raw scale of each of K steps, [B, K, 2].

What they say is added to nothing: values come scaled by their data. A network is a function `(num_classes, channels)`
with one class for each step and target; its layers are `layer1`, `layer2` ..., `features` [B, D] and `fc`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError


def forecast_gru(num_classes: int, channels: int = 1, *, width: int = 32, depth: int = 1,
                 dropout: float = 0.0) -> nn.Module:
    """Gated recurrent units: 3 thousand weights for one channel and the defaults.

    Each of `depth` layers reads the window with `width` units; what the last knows at the end tells all steps.
    `dropout` is the share of features left out before that.
    """
    _require(depth >= 1, "depth", depth, "1 or more layers")
    _require(width >= 1, "width", width, "1 or more")
    layers = [_Recurrent(width if number else channels, width) for number in range(depth)]
    return _Forecaster(layers, _Last(), width, num_classes, _share(dropout))


def forecast_transformer(num_classes: int, channels: int = 1, *, width: int = 32, depth: int = 2, heads: int = 4,
                         dropout: float = 0.0) -> nn.Module:
    """A small transformer over the steps of the window: 17 thousand weights for one channel and the defaults.

    Steps know their distance from the end by sines of it, so that any window will do. `heads` must divide `width`.
    `dropout` is that of its layers, and the share of features left out before the forecast.
    """
    _require(depth >= 1, "depth", depth, "1 or more layers")
    _require(width >= 2 and width % 2 == 0, "width", width, "an even number")
    _require(heads >= 1 and width % heads == 0, "heads", heads, f"a divisor of width = {width}")
    layers = [_Steps(channels, width), *(_Attention(width, heads, _share(dropout)) for _ in range(depth))]
    return _Forecaster(layers, _Last(), width, num_classes, dropout)


def forecast_linear(num_classes: int, channels: int = 1, *, width: int | None = None, depth: int = 1) -> nn.Module:
    """A linear forecast of all values of the window; with a `width`, `depth` hidden layers of so many units before it.

    It takes one length of window, the first that it sees. The smallest network there is, and hard to beat.
    """
    _require(width is None or width >= 1, "width", width, "1 or more")
    _require(depth >= 1, "depth", depth, "1 or more layers")
    layers: list[nn.Module] = [] if width is None else [nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.GELU())]
    layers += [] if width is None else [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth - 1)]
    return _Forecaster(layers, nn.Flatten(), width, num_classes, 0.0)


class _Forecaster(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], features: nn.Module, planes: int | None, steps: int,
                 dropout: float) -> None:
        super().__init__()
        self.depth, self.steps = len(layers), steps
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.LazyLinear(2 * steps) if planes is None else nn.Linear(planes, 2 * steps)

    def forward(self, values: Tensor) -> Tensor:
        """Mean and raw scale [B, K, 2]."""
        if values.dim() != 3:
            raise ModelError("not series", found=f"values {list(values.shape)}", expected="[rows, channels, steps]")
        for number in range(1, self.depth + 1):
            values = self.get_submodule(f"layer{number}")(values)
        return self.fc(self.dropout(self.features(values))).view(-1, self.steps, 2)


class _Recurrent(nn.Module):
    """Gated recurrent units over time, of maps [B, D, L]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.units = nn.GRU(inputs, width, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.units(maps.transpose(1, 2))[0].transpose(1, 2)


class _Steps(nn.Module):
    """Values [B, C, L] as vectors [B, D, L] that know how far from the end they are."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(channels, width)
        self.width = width

    def forward(self, values: Tensor) -> Tensor:
        steps = self.into(values.transpose(1, 2))
        distance = torch.arange(values.shape[2] - 1, -1, -1, device=values.device, dtype=steps.dtype)
        pace = torch.arange(0, self.width, 2, device=values.device, dtype=steps.dtype) * (-math.log(1e4) / self.width)
        angles = distance[:, None] * pace.exp()
        return (steps + torch.cat([angles.sin(), angles.cos()], 1)).transpose(1, 2)


class _Attention(nn.Module):
    """A layer of a transformer, norms first, of maps [B, D, L]."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        steps = maps.transpose(1, 2)
        asked, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                               for part in self.into(self.before(steps)).chunk(3, 2))
        seen = nn.functional.scaled_dot_product_attention(asked, keys, values)
        steps = steps + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return (steps + self.dropout(self.wide(self.between(steps)))).transpose(1, 2)


class _Last(nn.Module):
    """Maps [B, D, L] -> what is known at the end, [B, D]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps[..., -1]


def _share(dropout: float) -> float:
    _require(0 <= dropout < 1, "dropout", dropout, "0 or more, and below 1")
    return dropout


def _require(holds: bool, option: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError("an option of the network that cannot be", where=f"options, {option}", found=found,
                         expected=expected)
