"""The learning rate by hand, and steps that are taken whole or not at all."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from every import every
from tutelage.engine.optimizers import guarded_step, learning_rate_factor, make_optimizers, set_learning_rate
from tutelage.errors import UsageError
from tutelage.graph.schedules import cosine

GOOD, BAD = torch.tensor(True), torch.tensor(False)

RECIPES = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "dampened": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "adam": partial(torch.optim.Adam, lr=0.1), "amsgrad": partial(torch.optim.Adam, lr=0.1, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05), "adagrad": partial(torch.optim.Adagrad, lr=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.1, momentum=0.9), "nadam": partial(torch.optim.NAdam, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def backward(module: nn.Module, number: int) -> None:
    module.zero_grad()
    module(torch.randn(5, 3, generator=torch.Generator().manual_seed(number))).square().mean().backward()


def state_of(optimizer: torch.optim.Optimizer) -> list[dict]:
    states = optimizer.state.values()
    return [{slot: torch.as_tensor(held).tolist() for slot, held in slots.items()} for slots in states]


# The learning rate


def test_the_rate_warms_up_in_a_straight_line_and_ends_with_the_schedule():
    factors = [learning_rate_factor(step, 12, 4, cosine) for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert factors[4] == 1.0
    assert factors[8] == pytest.approx(0.5)
    assert factors[11] == pytest.approx(0.03806023374435663)  # cos(7/8 pi): the last step still learns
    assert learning_rate_factor(12, 12, 4, cosine) == 0.0


@pytest.mark.parametrize(("step", "steps", "warmup", "factor"), [
    (0, 1, 0, 1.0), (0, 2, 1, 1.0), (1, 2, 1, 1.0), (0, 10, 10, 0.1), (9, 10, 10, 1.0), (10, 10, 10, 1.0),
    (2**31, 2**32, 0, 0.5), (2**40 - 1, 2**40, 0, 2**-40), (0, 10**9, 10**9 - 1, 1 / (10**9 - 1)),
])
def test_the_rate_at_the_edges(step, steps, warmup, factor):
    assert learning_rate_factor(step, steps, warmup, lambda progress: 1 - progress) == factor


def test_the_rate_of_every_group_is_its_base_times_the_factor_however_often_it_is_set():
    model = network()

    def grouped(parameters) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)
    optimizer = make_optimizers(grouped, {"a": model})["a"]
    for factor in (0.5, 0.5, 0.0, 0.1):
        set_learning_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.1 * factor]


# Steps


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("how", [{}, {"fused": False}, {"foreach": True}])
@pytest.mark.parametrize("after", [0, 2])
def test_a_step_that_is_not_finite_moves_neither_weights_nor_optimizer(recipe, how, after):
    """Whatever is in the gradients; and the next good step is the one that would have come instead."""
    if "fused" in how and recipe in ("rmsprop", "nadam"):
        how = {}
    spared, masked = network(), network()
    one = make_optimizers(partial(RECIPES[recipe], **how), {"a": spared})["a"]
    other = make_optimizers(partial(RECIPES[recipe], **how), {"a": masked})["a"]
    for number in range(after):
        for module, optimizer in ((spared, one), (masked, other)):
            backward(module, number)
            guarded_step(optimizer, GOOD)
    weights, slots = [weight.clone() for weight in masked.parameters()], state_of(other)
    for poison in (float("nan"), float("inf"), 1e30):
        backward(masked, 7)
        for weight in masked.parameters():
            weight.grad.fill_(poison)
        guarded_step(other, BAD)
        assert every(map(torch.equal, weights, masked.parameters()))
        if after:
            assert state_of(other) == slots
        else:  # a fused optimizer may make its state, as others do not; then it is that of a beginning
            made = [held for slots in other.state.values() for held in slots.values() if isinstance(held, Tensor)]
            assert sum(held.count_nonzero() for held in made) == 0
    for number in (8, 9):
        for module, optimizer in ((spared, one), (masked, other)):
            backward(module, number)
            guarded_step(optimizer, GOOD)
    assert every(map(torch.equal, spared.parameters(), masked.parameters()))
    assert not torch.equal(weights[0], masked[0].weight)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_guarded_step_is_the_optimizers_own(recipe):
    mine, theirs = network(), network()
    guarded = make_optimizers(RECIPES[recipe], {"a": mine})["a"]
    plain = RECIPES[recipe](theirs.parameters())
    for number in range(4):
        backward(mine, number)
        backward(theirs, number)
        guarded_step(guarded, GOOD)
        plain.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_whose_gradient_comes_late_join_and_start_as_if_alone(recipe):
    """A head that an edge reads only later in the run."""
    body, late, alone = network(), nn.Linear(3, 2), nn.Linear(3, 2)
    alone.load_state_dict(late.state_dict())
    both = make_optimizers(RECIPES[recipe], {"a": nn.ModuleList([body, late])})["a"]
    single = make_optimizers(RECIPES[recipe], {"a": alone})["a"]
    late_before = late.weight.clone()
    for number in range(2):
        both.zero_grad()
        backward(body, number)
        guarded_step(both, GOOD)
        assert torch.equal(late.weight, late_before)
    for number in range(2, 5):
        both.zero_grad()
        for module in (body, late, alone):
            backward(module, number)
        guarded_step(both, GOOD)
        guarded_step(single, GOOD)
    torch.testing.assert_close(late.weight, alone.weight, rtol=1e-5, atol=1e-7)
    assert not torch.equal(late.weight, late_before)


def test_momentum_by_hand():
    weight = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(1.0)
    optimizer = make_optimizers(partial(torch.optim.SGD, lr=0.5, momentum=0.5), {"a": weight})["a"]
    seen = []
    for good in (BAD, GOOD, BAD, GOOD):
        weight.weight.grad = torch.ones(1, 1)
        guarded_step(optimizer, good)
        seen.append(weight.weight.item())
    assert seen == [1.0, 0.5, 0.5, -0.25]  # buffers 1 and 1.5


# Who has which


class Own(torch.optim.SGD):
    """Somebody's own optimizer, which knows nothing of fused steps."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr)


@pytest.mark.parametrize(("make", "fused"), [
    (partial(torch.optim.SGD, lr=0.1), True), (torch.optim.AdamW, True), (partial(torch.optim.Adam, lr=0.1), True),
    (partial(partial(torch.optim.SGD, lr=0.1), momentum=0.9), True),
    (partial(torch.optim.SGD, lr=0.1, fused=False), False), (partial(torch.optim.SGD, lr=0.1, foreach=True), None),
    (partial(torch.optim.SGD, lr=0.1, maximize=True), None), (partial(torch.optim.Adam, capturable=True), None),
    (partial(torch.optim.RMSprop, lr=0.1), None), (partial(Own, lr=0.1), None),
    (lambda parameters: torch.optim.SGD(parameters, lr=0.1), None),
])
def test_steps_are_fused_where_torch_can_and_the_user_has_not_chosen(make, fused):
    optimizer = make_optimizers(make, {"a": network()})["a"]
    assert optimizer.defaults.get("fused") is fused


def test_each_learner_has_an_optimizer_of_its_own_over_what_may_learn():
    learners = {"a": network(), "b": network(), "part": nn.Linear(2, 2), "function": nn.ReLU()}
    learners["a"][0].requires_grad_(False)
    learners["frozen part"] = nn.Linear(1, 1).requires_grad_(False)
    optimizers = make_optimizers({"a": RECIPES["adamw"], "": RECIPES["momentum"]}, learners)
    assert {name: type(optimizer) for name, optimizer in optimizers.items()} == {
        "a": torch.optim.AdamW, "b": torch.optim.SGD, "part": torch.optim.SGD}
    assert optimizers["a"].param_groups[0]["params"] == [*learners["a"][2].parameters()]
    before = [weight.clone() for weight in learners["b"].parameters()]
    backward(learners["a"], 0)
    backward(learners["b"], 0)
    guarded_step(optimizers["a"], GOOD)
    assert every(map(torch.equal, before, learners["b"].parameters()))


def test_names_that_are_missing_or_unknown_are_told():
    with pytest.raises(UsageError, match="unknown trained node or part 'aa'") as error:
        make_optimizers({"aa": RECIPES["sgd"]}, {"a": network()})
    assert error.value.fix == "did you mean 'a'?"
    with pytest.raises(UsageError, match="no optimizer for 'b'"):
        make_optimizers({"a": RECIPES["sgd"]}, {"a": network(), "b": network()})


# Single numbers


def test_what_learns_single_numbers_alone_is_not_decayed_unless_it_is_named():
    balance, mixed = (nn.ParameterList([torch.zeros(()), torch.ones(shape)]) for shape in ((), (2,)))
    learners = {"net": network(), "balance": balance, "mixed": mixed}
    sgd = RECIPES["momentum"]

    def decays(make: object) -> dict[str, float]:
        return {name: made.param_groups[0]["weight_decay"] for name, made in make_optimizers(make, learners).items()}

    assert decays(sgd) == decays({"": sgd, "net": sgd}) == {"net": 0.01, "balance": 0.0, "mixed": 0.01}
    assert decays({"": sgd, "balance": sgd})["balance"] == 0.01
    make_optimizers(partial(torch.optim.LBFGS, lr=0.1), {"balance": balance})
