"""Networks for series: values [B, channels, L] and, where lengths differ, a mask [B, L], true on a series' steps.

Steps come first and padding last. What lies in the padding has no part in the logits: it is put to 0 before every
convolution, left out of the statistics of norms and of the mean over time. Any length will do. A network is a function
`(num_classes, channels)`; its layers are `layer1`, `layer2` ... (maps [B, D, L]), `features` [B, D] and `fc`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError

KERNELS = (39, 19, 9)
"""Steps that the first convolutions look at; those of LITE (Ismail-Fawaz et al. 2023), made odd."""
KERNEL = 15
"""Steps of a later convolution, each of twice the dilation of the one before."""


def series_cnn(num_classes: int, channels: int = 1, *, width: int = 16, depth: int = 3,
               dropout: float = 0.0) -> nn.Module:
    """Convolutions over time, about the size of LITE: 8 thousand weights for one channel and the defaults.

    The first layer has `width` filters of each length in `KERNELS`, the `depth` - 1 others are separable, with a
    shortcut. `dropout` is the share of channels left out before the last layer, and of features before the classifier.
    """
    _require(depth >= 2, "depth", depth, "2 or more layers")
    _require(width >= 1, "width", width, "1 or more")
    planes = width * len(KERNELS)
    layers = [_FirstConvolutions(channels, width), *(_Separable(planes, 2**i) for i in range(1, depth - 1))]
    return _SeriesNetwork(layers, _Features(_share(dropout), _Separable(planes, 2 ** (depth - 1))), planes, num_classes)


def series_gru(num_classes: int, channels: int = 1, *, width: int = 32, depth: int = 1, bidirectional: bool = True,
               pool: str = "mean", dropout: float = 0.0) -> nn.Module:
    """Gated recurrent units over time: 7 thousand weights for one channel and the defaults.

    Each of `depth` layers reads the series with `width` units, and with as many from its end if `bidirectional`. `pool`
    is the mean over time or, "last", what each direction knows at its end. `dropout` is the share of features left out
    before the classifier.
    """
    _require(depth >= 1, "depth", depth, "1 or more layers")
    _require(width >= 1, "width", width, "1 or more")
    _require(pool in ("mean", "last"), "pool", repr(pool), '"mean" or "last"')
    planes = width * (1 + bidirectional)
    layers = [_Recurrent(planes if i else channels, width, bidirectional) for i in range(depth)]
    return _SeriesNetwork(layers, _Features(_share(dropout), None, pool, bidirectional), planes, num_classes)


class _SeriesNetwork(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], features: nn.Module, planes: int, num_classes: int) -> None:
        super().__init__()
        self.depth = len(layers)
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
        self.features = features
        self.fc = nn.Linear(planes, num_classes)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, classes]."""
        if values.dim() != 3:
            raise ModelError("not series", found=f"values {list(values.shape)}", expected="[rows, channels, steps]")
        maps = _kept(values, mask)
        for number in range(1, self.depth + 1):
            maps = self.get_submodule(f"layer{number}")(maps, mask)
        return self.fc(self.features(maps, mask))


class _FirstConvolutions(nn.Module):
    """Short and long filters beside each other; what they give lies at 0 in the padding."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(channels, width, size) for size in KERNELS)
        self.norm = _MaskedNorm(width * len(KERNELS))

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        found = torch.cat([convolution(values) for convolution in self.convolutions], 1)
        return _kept(F.relu(self.norm(found, mask)), mask)


class _Separable(nn.Module):
    """A filter over time for each channel, a product over channels, and a shortcut around both."""

    def __init__(self, planes: int, dilation: int) -> None:
        super().__init__()
        self.over_time = _convolution(planes, planes, KERNEL, dilation, groups=planes)
        self.over_channels = nn.Conv1d(planes, planes, 1, bias=False)
        self.norm = _MaskedNorm(planes)

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        found = self.norm(self.over_channels(self.over_time(maps)), mask)
        return _kept(F.relu(maps + found), mask)


class _Recurrent(nn.Module):
    """Gated recurrent units that read each series from its first step and, if asked, from its last to its first."""

    def __init__(self, inputs: int, width: int, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = nn.GRU(inputs, width, batch_first=True)
        self.backwards = nn.GRU(inputs, width, batch_first=True) if bidirectional else None

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        steps = maps.transpose(1, 2)
        found = [self.forwards(steps)[0]]
        if self.backwards is not None:
            turned = _turned(steps, mask)
            found.append(_turned(self.backwards(turned)[0], mask))
        return _kept(torch.cat(found, -1).transpose(1, 2), mask)


class _Features(nn.Module):
    """Maps [B, D, L] -> features [B, D]: a last layer, if any, and a mean over time or what is known at the end."""

    def __init__(self, dropout: float, layer: nn.Module | None, pool: str = "mean", two_ways: bool = False) -> None:
        super().__init__()
        self.channels_out = nn.Dropout1d(dropout if layer is not None else 0.0)
        self.layer, self.pool, self.two_ways = layer, pool, two_ways
        self.out = nn.Dropout(dropout)

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        if self.layer is not None:
            maps = self.layer(self.channels_out(maps), mask)
        return self.out(_mean(maps, mask) if self.pool == "mean" else _ends(maps, mask, self.two_ways))


class _MaskedNorm(nn.BatchNorm1d):
    """BatchNorm whose mean and variance are those of the series' steps alone."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: A002 - BatchNorm1d's name for it
        if mask is None or not self.training:
            return super().forward(input)
        maps, there = input.float(), mask[:, None].float()
        count = there.sum().clamp(min=1)
        mean = (maps * there).sum((0, 2)) / count
        variance = ((maps - mean[:, None]).square() * there).sum((0, 2)) / count
        self._learn(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normed = (maps - mean[:, None]) * (variance[:, None] + self.eps).rsqrt()
        return (normed * self.weight[:, None] + self.bias[:, None]).to(input.dtype)

    @torch.no_grad()
    def _learn(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None, "made so"
        self.get_buffer("num_batches_tracked").add_(1)
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(variance, self.momentum)


def _convolution(inputs: int, outputs: int, size: int, dilation: int = 1, groups: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, groups=groups, bias=False)


def _kept(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Maps [B, D, L] with 0 in the padding, whatever was there."""
    return maps if mask is None else maps.masked_fill(~mask[:, None], 0)


def _mean(maps: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over a series' steps of maps [B, D, L] that are 0 in the padding: [B, D]."""
    return maps.mean(-1) if mask is None else maps.sum(-1) / mask.sum(-1, keepdim=True).clamp(min=1)


def _ends(maps: Tensor, mask: Tensor | None, two_ways: bool) -> Tensor:
    """What units know when they have read a series [B, D, L]: at its last step; if backwards, at its first."""
    last = maps[..., -1] if mask is None else maps.gather(
        -1, (mask.sum(-1) - 1).clamp(min=0)[:, None, None].expand(-1, maps.shape[1], 1))[..., 0]
    if not two_ways:
        return last
    half = maps.shape[1] // 2
    return torch.cat([last[:, :half], maps[:, half:, 0]], 1)


def _turned(steps: Tensor, mask: Tensor | None) -> Tensor:
    """Steps [B, L, D] of each series from its last to its first; padding stays behind them."""
    if mask is None:
        return steps.flip(1)
    place = torch.arange(steps.shape[1], device=steps.device)
    places = torch.where(mask, mask.sum(-1, keepdim=True) - 1 - place, place)
    return steps.gather(1, places[..., None].expand_as(steps))


def _share(dropout: float) -> float:
    _require(0 <= dropout < 1, "dropout", dropout, "0 or more, and below 1")
    return dropout


def _require(holds: bool, option: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError("an option of the network that cannot be", where=f"options, {option}", found=found,
                         expected=expected)
