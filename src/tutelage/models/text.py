"""Networks for text: pieces of words [B, L] int64, -1 in the padding -> logits of each sentence, or of places in it.

A network is a function `(num_classes, channels)`, `channels` being how many pieces there are. Both have the same body,
`embed`, `positions`, `layer1`, `layer2` ..., `norm`, and the classifier `fc`, so that the weights of one start the
other with `head = "new"`. What lies in the padding has no part in what is said. With the option `tokenizer` a network
reads the pieces of that tokenizer, `tokens_NAME`, and not those of the main one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError

MOST = 64
"""Pieces that a sentence may have where a network does not say otherwise."""
FIRST = 0.02
"""The standard deviation of the first embeddings."""


def sentence_encoder(num_classes: int, channels: int, *, width: int = 64, depth: int = 2, heads: int = 4,
                     most: int = MOST, dropout: float = 0.1, tokenizer: str = "") -> nn.Module:
    """Attention over the pieces of a sentence, their mean and a classifier: logits [B, classes].

    `most` is how many pieces a sentence may have. 0.2 million weights for 2000 pieces and the defaults.
    """
    return TextEncoder(num_classes, channels, width, depth, heads, most, dropout, tokenizer)


def word_encoder(num_classes: int, channels: int, *, width: int = 64, depth: int = 2, heads: int = 4, most: int = MOST,
                 dropout: float = 0.1, tokenizer: str = "") -> nn.Module:
    """The same attention, and a classifier of the pieces at `places` [B, P]: logits [B, P, classes]."""
    return WordEncoder(num_classes, channels, width, depth, heads, most, dropout, tokenizer)


def own_view(tokenizer: str, view: dict[str, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """The pieces and the places that are of a tokenizer, among those of all; ModelError where there are none."""
    after = f"_{tokenizer}" if tokenizer else ""
    tokens = view.get(f"tokens{after}")
    if tokens is None or tokens.dim() != 2 or tokens.is_floating_point():
        found = ", ".join(sorted(view)) if tokens is None else f"tokens {list(tokens.shape)}"
        raise ModelError("not text", found=found,
                         expected=f"tokens{after} [rows, pieces], whole numbers",
                         fix=f"name the tokenizer in [data]: tokenizers = {{ {tokenizer} = ... }}" if after else None)
    return tokens, view.get(f"places{after}")


def at_places(states: Tensor, places: Tensor | None) -> Tensor:
    """What a network knows [B, L, D] at some places [B, P] of each sentence: [B, P, D]; of every piece without them."""
    return states if places is None else states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


class TextEncoder(nn.Module):
    """See `sentence_encoder`."""

    def __init__(self, num_classes: int, channels: int, width: int, depth: int, heads: int, most: int, dropout: float,
                 tokenizer: str) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("heads", heads), ("most", most)):
            _require(value >= 1, name, value, "1 or more")
        _require(width % heads == 0, "heads", heads, f"a divisor of the width, {width}")
        _require(0 <= dropout < 1, "dropout", dropout, "0 or more, and below 1")
        self.depth, self.most, self.tokenizer = depth, most, tokenizer
        self.embed, self.positions = nn.Embedding(channels, width), nn.Embedding(most, width)
        for table in (self.embed, self.positions):
            nn.init.normal_(table.weight, std=FIRST)
        self.dropout = nn.Dropout(dropout)
        for number in range(1, depth + 1):
            self.add_module(f"layer{number}", _Layer(width, heads, dropout))
        self.norm = nn.LayerNorm(width)
        self.features = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)

    def states(self, tokens: Tensor) -> Tensor:
        """What is known of each piece: [B, L, width]."""
        if tokens.shape[1] > self.most:
            raise ModelError("a sentence that is longer than the network allows", found=f"{tokens.shape[1]} pieces",
                             expected=f"{self.most} at most", fix="options = { most = ... } in its [models.NODE]")
        there = tokens >= 0
        # The rows of a table by their numbers, and not a slice: an exported graph takes any length.
        place = torch.ones_like(tokens).cumsum(1) - 1
        states = self.dropout(self.embed(tokens.clamp(min=0)) + self.positions(place))
        for number in range(1, self.depth + 1):
            states = self.get_submodule(f"layer{number}")(states, there)
        return self.norm(states)

    def forward(self, tokens: Tensor | None = None, places: Tensor | None = None, **more: Tensor) -> Tensor:
        """Logits [B, classes]."""
        own, _ = own_view(self.tokenizer, {"tokens": tokens, "places": places, **more})
        there = (own >= 0)[..., None]
        mean = self.states(own).masked_fill(~there, 0).sum(1) / there.sum(1).clamp(min=1)
        return self.fc(self.features(mean))


class WordEncoder(TextEncoder):
    """See `word_encoder`."""

    def forward(self, tokens: Tensor | None = None, places: Tensor | None = None, **more: Tensor) -> Tensor:
        """Logits [B, P, classes]."""
        own, where = own_view(self.tokenizer, {"tokens": tokens, "places": places, **more})
        return self.fc(self.features(at_places(self.states(own), where)))


class _Layer(nn.Module):
    """Attention of each piece to those that are there, and two products; norms come first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        batch, length, width = states.shape
        split = self.queries(self.norm1(states)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        # What is padding is looked at by nobody; a sentence has a piece at least.
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        states = states + self.dropout(self.joined(found.transpose(1, 2).reshape(batch, length, width)))
        return states + self.dropout(self.narrow(F.gelu(self.wide(self.norm2(states)))))


def _require(holds: bool, option: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError("an option of the network that cannot be", where=f"options, {option}", found=found,
                         expected=expected)
