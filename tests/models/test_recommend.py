"""Recommenders: products of vectors, spread over interactions or not."""

import pytest
import torch

from tutelage.errors import ModelError, UsageError
from tutelage.models.recommend import lightgcn, mf

PAIRS = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 3, 0]])


def network(layers=2):
    torch.manual_seed(0)
    made = lightgcn(4, 3, dim=5, layers=layers).double()
    made.connect(PAIRS)
    return made


def by_hand(made, layers):
    """The same with a dense matrix."""
    matrix = torch.zeros(7, 7, dtype=torch.float64)
    for user, item in PAIRS.t().tolist():
        matrix[user, 3 + item] = matrix[3 + item, user] = 1
    root = matrix.sum(1).clamp(min=1).rsqrt()
    matrix = root[:, None] * matrix * root
    spread = [torch.cat([made.users, made.items])]
    for _ in range(layers):
        spread.append(matrix @ spread[-1])
    return torch.stack(spread).mean(0).split([3, 4])


@pytest.mark.parametrize("layers", [1, 3])
def test_vectors_are_spread_as_by_a_dense_matrix(layers):
    made = network(layers)
    users, items = by_hand(made, layers)
    chosen = torch.tensor([2, 0])

    assert torch.allclose(made(users=chosen).double(), users[chosen] @ items.t(), atol=1e-6)


def test_the_gradient_is_that_of_the_dense_matrix():
    made = network()
    made(users=torch.arange(3))[0, 2].backward()
    found = made.users.grad.clone(), made.items.grad.clone()
    made.zero_grad()
    users, items = by_hand(made, 2)
    (users @ items.t())[0, 2].backward()

    assert torch.allclose(found[0], made.users.grad, atol=1e-6)
    assert torch.allclose(found[1], made.items.grad, atol=1e-6)


def test_the_interactions_are_saved_with_the_weights():
    made, fresh = network(), lightgcn(4, 3, dim=5).double()

    fresh.load_state_dict(made.state_dict())

    assert torch.equal(fresh(users=torch.arange(3)), made(users=torch.arange(3)))


def test_a_network_without_interactions_says_so():
    with pytest.raises(ModelError, match="who took what"):
        lightgcn(4, 3)(users=torch.arange(3))


@pytest.mark.parametrize(("make", "options"), [(mf, {"dim": 0}), (lightgcn, {"layers": 0})])
def test_options_that_cannot_be_are_refused(make, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        make(4, 3, **options)


def test_what_is_no_number_of_a_user_is_refused():
    with pytest.raises(ModelError, match="not users"):
        mf(4, 3)(torch.rand(2, 3))
