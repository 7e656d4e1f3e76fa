"""What networks cost: counts by hand, and clocks that are plausible."""

import pytest
import torch
from torch import nn

from every import every
from tutelage.models.cost import CONVENTION, costs, flops, latency, parameters
from tutelage.system.files import pack
from tutelage.system.machine import describe_machine

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
                         nn.Linear(width * 64, 5))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1, 2)
        return self.attention(rows, rows, rows, need_weights=False)[0].mean(1)


def test_flops_by_hand_are_twice_the_multiply_adds():
    convolution, linear = 8 * 8 * 4 * 3 * 3 * 3, 4 * 64 * 5
    assert flops(network(), SHAPE, CPU) == 2 * (convolution + linear)
    grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
    assert flops(grouped, (4, 8, 8), CPU) == 2 * 4 * 4 * 8 * (4 // 2) * 9
    assert "1 multiply-add = 2 FLOP" in CONVENTION


def test_flops_of_attention_count_also_where_torch_would_take_its_fused_path():
    tokens, width = 24, 8
    multiply_adds = 4 * tokens * width * width + 2 * tokens * tokens * width
    assert flops(Attending().eval(), SHAPE, CPU) == 2 * multiply_adds
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4)])
def test_flops_of_recurrent_layers_count_every_step(kind, gates):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.units = kind(2, 5, batch_first=True)

        def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (self.units(values.transpose(1, 2))[0] * mask[:, :, None]).mean(1)

    example = {"values": torch.rand(3, 2, 7), "mask": torch.ones(3, 7, dtype=torch.bool)}
    assert flops(Recurrent().eval(), (2, 7), CPU, example) == 2 * 7 * gates * 5 * (2 + 5)
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled


def test_parameters_count_once_and_statistics_do_not():
    net = network()
    assert parameters(net) == 3 * 4 * 9 + 4 + 8 + 256 * 5 + 5
    shared = nn.Linear(4, 4)
    assert parameters(nn.Sequential(shared, nn.ReLU(), shared)) == 20


def test_costs_of_all_networks(tmp_path):
    models = {"t": network(8), "a": network(4)}
    file = tmp_path / "a.safetensors"
    file.write_bytes(pack(models["a"].state_dict()))
    found = costs(models, SHAPE, tuple("abcde"), CPU, teacher="t", files={"a": file}, seconds=0.01)
    assert (found["machine"], found["convention"]) == (describe_machine("cpu"), CONVENTION)
    assert found["nodes"]["a"]["bytes"] == file.stat().st_size
    numbers = sum(tensor.numel() * tensor.element_size() for tensor in models["t"].state_dict().values())
    assert numbers < found["nodes"]["t"]["bytes"] < numbers + 2000
    assert found["nodes"]["t"]["compression"] == 1
    assert found["nodes"]["a"]["compression"] == pytest.approx(
        sum(p.numel() for p in models["t"].parameters()) / sum(p.numel() for p in models["a"].parameters()))
    assert found["nodes"]["a"]["flops"] == flops(models["a"], SHAPE, CPU)
    assert list(found["nodes"]["a"]["latency"]) == ["1", "32"]
    assert costs({"a": models["a"]}, SHAPE, ("x",), CPU, seconds=0.01)["nodes"]["a"]["compression"] is None


def test_latency_is_a_median_with_its_quartiles(monkeypatch):
    ticks = iter([0.0, 1.0] + [t for k in (9, 1, 3, 2, 4) for t in (100.0 * k, 100.0 * k + k / 1000)])
    monkeypatch.setattr("tutelage.models.cost._now", lambda device: next(ticks))
    found = latency(network(), SHAPE, 32, CPU, seconds=0)
    assert found == pytest.approx({"median_ms": 3, "low_ms": 2, "high_ms": 4, "images_per_second": 32 / 0.003, "n": 5})


def test_slower_networks_take_longer_and_the_clock_is_stopped():
    slow, fast = (latency(network(width), SHAPE, 8, CPU, seconds=0.1) for width in (512, 1))
    assert slow["median_ms"] > fast["median_ms"] > 0
    for found in (slow, fast):
        assert found["low_ms"] <= found["median_ms"] <= found["high_ms"]
        assert 5 <= found["n"] <= 100


def test_measuring_moves_nothing():
    net = network().train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stream = torch.random.get_rng_state()
    costs({"a": net}, SHAPE, ("x",), CPU, seconds=0.01)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert every(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), stream)
