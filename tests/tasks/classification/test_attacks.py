"""Attacks: how far they go, that they find the worst there is where it is known, and that nothing else moves."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import every
from toys import Rows, data, network, run
from tutelage.engine.predict import robustness
from tutelage.engine.run import Run
from tutelage.errors import ModelError, UsageError
from tutelage.graph.divergences import cross_entropy
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.models.wrappers import cut
from tutelage.tasks.classification.attacks import Adversary, Attack, pgd
from tutelage.types import Batch

ATTACK = Attack(0.1, 0.03, 5)


def images(rows: int = 6) -> Tensor:
    return torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def start(attack: Attack = ATTACK, noise: float = 0.001, guide: Trained | Frozen = Trained()) -> Run:  # noqa: B008
    graph = Graph({"p": guide, "s": Trained()}, [Edge("labels", "s@adversarial", cross_entropy)],
                  {"adversary": Adversary("p", "s", attack, noise)})
    return run(graph, {"p": network(0), "s": network(1, width=5)}, precision="exact")


def attacked(job: Run, x: Tensor, ids: Tensor | None = None) -> Tensor:
    ids = torch.arange(len(x)) if ids is None else ids
    batch = Batch({"": x, "adversarial": torch.zeros_like(x)}, torch.zeros_like(ids), ids)
    found = job.graph.controllers["adversary"].before_forward(job, batch)
    assert found.inputs[""] is x
    return found.inputs["adversarial"]


def naive(job: Run, x: Tensor, began: Tensor, attack: Attack) -> Tensor:
    """Row by row, in textbook words."""
    guide, student = (job.models[node].eval() for node in "ps")
    rows = []
    for clean, moved in zip(x, began, strict=True):
        said = guide(clean[None]).softmax(-1).detach()
        for _ in range(attack.steps):
            moved = moved.clone().requires_grad_()
            F.kl_div(student(moved[None]).log_softmax(-1), said, reduction="sum").backward()
            step = moved.detach() + attack.step_size * moved.grad.sign()
            moved = torch.min(torch.max(step, clean - attack.eps), clean + attack.eps).clamp(0, 1)
        rows.append(moved)
    return torch.stack(rows)


def test_the_view_is_that_of_a_naive_loop_over_rows():
    job, x = start(noise=0.0), images()
    torch.testing.assert_close(attacked(job, x), naive(job, x, x, ATTACK), rtol=0, atol=1e-6)


def test_it_stays_near_the_images_and_within_0_and_1_and_raises_the_divergence():
    job, x = start(), images().round(decimals=1)
    moved = attacked(job, x)
    assert (moved - x).abs().max() <= ATTACK.eps + 1e-6
    assert (moved - x).abs().max() > ATTACK.eps / 2
    assert (moved.min(), moved.max()) == (0, 1)
    guide, student = (job.models[node].eval() for node in "ps")

    def apart(there: Tensor) -> float:
        return F.kl_div(student(there).log_softmax(-1), guide(x).softmax(-1), reduction="sum").item()

    assert apart(moved) > 1.5 * apart(x)


@pytest.mark.parametrize("attack", [Attack(0.1, 0.03, 0), Attack(0.0, 0.03, 5)])
def test_without_steps_or_room_the_images_stay_as_they_are(attack):
    x = images()
    assert torch.equal(attacked(start(attack), x), x)


def test_the_start_is_drawn_by_sample_step_and_seed_and_by_nothing_else():
    job, x, ids = start(Attack(1.0, 0.0, 1), noise=0.01), images().clamp(0.2, 0.8), torch.tensor([3, 9, 4, 0, 77, 5])
    noise = attacked(job, x, ids) - x
    assert noise.std() == pytest.approx(0.01, rel=0.2)
    back = attacked(job, x[[4, 1]], ids[[4, 1]]) - x[[4, 1]]
    assert torch.equal(back, noise[[4, 1]])
    torch.manual_seed(123)
    assert torch.equal(attacked(job, x, ids) - x, noise)
    job.step += 1
    assert not torch.isclose(attacked(job, x, ids) - x, noise, rtol=0, atol=1e-5).any(-1).all()


@pytest.mark.parametrize("guide", [Trained(), Frozen()])
def test_an_attack_moves_no_weight_no_statistic_no_gradient_and_no_mode(guide):
    job = start(guide=guide)
    job.models["s"].train()
    job.models["p"].train(guide == Trained())
    before = {(node, key): x.clone() for node in "ps" for key, x in job.models[node].state_dict().items()}
    attacked(job, images())
    for (node, key), tensor in before.items():
        assert torch.equal(job.models[node].state_dict()[key], tensor), (node, key)
    assert every(parameter.grad is None for node in "ps" for parameter in job.models[node].parameters())
    assert every(module.training for module in job.models["s"].modules())
    assert job.models["p"].training == (guide == Trained())


def test_logits_of_any_size_give_numbers():
    job, x = start(), images()
    for node in "ps":
        job.models[node][-1].weight.data *= 1e6
    moved = attacked(job, x)
    assert moved.isfinite().all()
    assert (moved - x).abs().max() <= ATTACK.eps + 1e-6


def test_a_network_whose_gradient_is_cut_is_refused():
    job = start()
    cut(job.models["s"], "0")
    with pytest.raises(ModelError, match="cannot be attacked") as caught:
        attacked(job, images())
    assert "cut" in caught.value.fix


class Linear(nn.Module):
    """Two classes, told apart by a plane: how far an image may move before it is taken for the other is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        side = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([side, -side], -1)


def planes() -> tuple[dict[str, nn.Module], Rows, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, generator=generator)
    x = 0.5 + 0.2 * (torch.rand(40, 1, 4, 4, generator=generator) - 0.5)
    side = (x.flatten(1) - 0.5) @ weight
    return {"a": Linear(weight).eval(), "b": Linear(-weight).eval()}, Rows(x, (side < 0).long()), side


@pytest.mark.parametrize("batch_size", [7, 100])
def test_robust_accuracy_is_that_of_the_worst_images_where_they_are_known(batch_size):
    models, rows, side = planes()
    attack = Attack(0.02, 0.005, 10)
    found = robustness(models, rows, attack, attacked=["a"], batch_size=batch_size)
    worst = (side.abs() > 0.02 * models["a"].weight.abs().sum()).double().mean().item()
    assert 0.2 < worst < 0.8
    assert found == {"a": {"a": pytest.approx(worst), "b": pytest.approx(1 - worst)}}


def test_rows_without_a_label_are_left_out_and_without_room_nothing_is_lost():
    models, rows, _ = planes()
    rows.labels[:30] = -1
    found = robustness(models, rows, Attack(0.0), attacked=["a", "b"])
    assert found == {"a": {"a": 1.0, "b": 0.0}, "b": {"a": 1.0, "b": 0.0}}
    assert torch.cat(rows.asked).tolist() == list(range(30, 40))


def test_the_start_is_drawn_by_sample_whatever_the_batch():
    models, rows, _ = planes()
    found = [robustness(models, rows, Attack(0.2, 0.0, 1), attacked=["a"], batch_size=size) for size in (3, 7, 100)]
    assert found[0] == found[1] == found[2]
    assert found[0]["a"]["a"] < 1


def test_robustness_leaves_no_gradient():
    models, rows, _ = planes()
    robustness(models, rows, Attack(0.02), attacked=["a"])
    assert models["a"].weight.grad is None


def test_images_of_a_data_set_are_in_0_and_1_and_networks_normalise_by_themselves():
    (batch,) = data().train.batches([torch.arange(12)], draw=0, views=("", "adversarial"))
    assert every(x.min() >= 0 and x.max() <= 1 for x in batch.inputs.values())


@pytest.mark.parametrize(("options", "where"), [
    ({"eps": -0.1}, "eps"), ({"eps": 8.0}, "eps"), ({"eps": float("nan")}, "eps"), ({"step_size": -1.0}, "step_size"),
    ({"step_size": 2.0}, "step_size"), ({"steps": -1}, "steps"),
])
def test_an_attack_that_cannot_be_is_refused_where_it_is(options, where):
    with pytest.raises(UsageError) as caught:
        Attack(**options)
    assert caught.value.where == where


def test_nothing_goes_beyond_the_bounds_in_half_precision_either():
    x = images().half()
    moved = pgd(ATTACK, x, x, lambda x: x.float().flatten(1).sum(-1))
    assert moved.dtype == torch.float16
    assert (moved.float() - (x.float() + 0.1).clamp(max=1)).abs().max() < 1e-3
