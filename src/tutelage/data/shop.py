"""Made interactions of a shop: users with a taste, items of unlike popularity; the same on every machine.

They are written as a CSV file and read back by the reader of such files. A user likes items near to its own taste, and
buys popular ones more often.
"""

from pathlib import Path

import torch

from tutelage.system.random import derive, normal, uniform

SHOP_USERS, SHOP_ITEMS = 300, 120
_TASTES = 4
_BOUGHT = (8, 28)
"""Items of a user, at least and at most."""


def write_shop(folder: Path) -> Path:
    """Write shop.csv, user,item,time, into a folder."""
    users, items = torch.arange(SHOP_USERS), torch.arange(SHOP_ITEMS)
    taste, kind = normal(derive("shop", "taste"), users, _TASTES), normal(derive("shop", "kind"), items, _TASTES)
    popular = -1.2 * (1 + torch.arange(SHOP_ITEMS)).log()
    chance = uniform(derive("shop", "chance"), users, SHOP_ITEMS).clamp(min=2.0**-25)
    # The largest of log-weight plus Gumbel noise are a draw without replacement by these weights.
    liked = 1.5 * taste @ kind.t() + popular - (-chance.log()).log()
    low, high = _BOUGHT
    count = low + (uniform(derive("shop", "count"), users, 1)[:, 0] * (high - low + 1)).long()
    lines = ["user,item,time"]
    for user, order in enumerate(liked.argsort(dim=1, descending=True, stable=True).tolist()):
        days = uniform(derive("shop", "day", user), items, 1)[:, 0]
        lines += [f"u{user:03d},i{item:03d},{1 + int(365 * days[item])}" for item in order[:int(count[user])]]
    path = folder / "shop.csv"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path
