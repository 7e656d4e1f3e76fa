"""Networks that recommend: users [B] -> a score of each item [B, I], or of candidates `items` [B, L] -> [B, L].

A network is a function `(num_classes, channels)`: how many items there are, and how many users. Its vectors are
`user_vectors()` [U, D] and `item_vectors()` [I, D]; a score is the product of two of them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError

FIRST = 0.1
"""The standard deviation of the first weights."""


def mf(num_classes: int, channels: int, *, dim: int = 32) -> nn.Module:
    """Matrix factorisation: a vector of `dim` numbers of each user and each item (Koren et al. 2009)."""
    _require(dim >= 1, "dim", dim, "1 or more")
    return Recommender(num_classes, channels, dim)


def lightgcn(num_classes: int, channels: int, *, dim: int = 32, layers: int = 2) -> nn.Module:
    """Vectors that are spread over the interactions of train: He et al. 2020, arXiv:2002.02126.

    Each of `layers` replaces a vector by the sum of those that it has an interaction with, each over the root of the
    product of their numbers of interactions; what counts is the mean over all layers, the first vectors among them.
    """
    _require(dim >= 1, "dim", dim, "1 or more")
    _require(layers >= 1, "layers", layers, "1 or more")
    return GraphRecommender(num_classes, channels, dim, layers)


class Recommender(nn.Module):
    """Scores of items by the products of vectors."""

    def __init__(self, items: int, users: int, dim: int) -> None:
        super().__init__()
        self.users = nn.Parameter(FIRST * torch.randn(users, dim))
        self.items = nn.Parameter(FIRST * torch.randn(items, dim))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Those of all users [U, D], and of all items [I, D]."""
        return self.users, self.items

    def forward(self, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of all items [B, I], or of those that are named [B, L]."""
        if users.dim() != 1 or users.is_floating_point():
            raise ModelError("not users", found=f"{users.dtype} {list(users.shape)}", expected="their numbers, [rows]")
        of_users, of_items = self.vectors()
        mine = of_users.index_select(0, users)
        if items is None:
            return mine @ of_items.t()
        theirs = of_items.index_select(0, items.flatten()).view(*items.shape, -1)
        return (theirs @ mine[:, :, None])[..., 0]


class GraphRecommender(Recommender):
    """A recommender whose vectors are spread over `pairs` [2, E], users and items, which are kept with its weights."""

    pairs: Tensor
    places: Tensor
    shares: Tensor

    def __init__(self, items: int, users: int, dim: int, layers: int) -> None:
        super().__init__(items, users, dim)
        self.layers = layers
        self.register_buffer("pairs", torch.zeros(2, 0, dtype=torch.int64))
        self.register_buffer("places", torch.zeros(2, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("shares", torch.zeros(0), persistent=False)

    def connect(self, pairs: Tensor) -> None:
        """Spread over these pairs from now on."""
        count, device = len(self.users) + len(self.items), self.users.device
        pairs = pairs.to(device)
        one, other = pairs[0], pairs[1] + len(self.users)
        source, target = torch.cat([one, other]), torch.cat([other, one])
        order = (source * count + target).argsort()
        source, target = source[order], target[order]
        degree = source.bincount(minlength=count)
        self.pairs = pairs
        self.places = torch.stack([source, target])
        self.shares = (degree[source].double() * degree[target]).rsqrt().float()

    def vectors(self) -> tuple[Tensor, Tensor]:
        """See `Recommender`."""
        if not self.pairs.shape[1]:
            raise ModelError("this network does not know who took what", where="lightgcn",
                             expected="the interactions of train", fix="call `connect` with them")
        size = len(self.users) + len(self.items)
        with torch.autocast(self.users.device.type, enabled=False):
            spread = total = torch.cat([self.users, self.items]).float()
            for _ in range(self.layers):
                spread = _Spread.apply(spread, self.places, self.shares, size)
                total = total + spread
            total = total / (self.layers + 1)
        users, items = total.split([len(self.users), len(self.items)])
        return users, items

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        pairs = state_dict.get(f"{prefix}pairs")
        if pairs is not None:
            self.connect(pairs)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Spread(torch.autograd.Function):
    """The product with a symmetric sparse matrix, which is its own gradient."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, *rest: Any) -> Tensor:
        ctx.rest = rest
        return _product(vectors, *rest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _product(gradients[0].contiguous(), *ctx.rest), None, None, None


def _product(vectors: Tensor, places: Tensor, shares: Tensor, size: int) -> Tensor:
    matrix = torch.sparse_coo_tensor(places, shares, (size, size), check_invariants=False, is_coalesced=True)
    return torch.sparse.mm(matrix, vectors)


def _require(holds: bool, option: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError("an option of the network that cannot be", where=f"options, {option}", found=found,
                         expected=expected)
