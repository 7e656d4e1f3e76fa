"""The splits of a folder whose images have no classes: as it says them, or cut from it."""

import torch
from torch import Tensor

from tutelage.data.assemble import SplitRows, held_out
from tutelage.data.folder import Listing
from tutelage.data.settings import DataSettings
from tutelage.data.splits import TEST_SHARE, Cut, names_of_paths
from tutelage.errors import DataError


def splits_as_listed(settings: DataSettings, listing: Listing, labels: Tensor) -> dict[str, SplitRows]:
    """The rows of each split, ids being places in the listing; `labels` [N] are 0, and -1 of what is not known."""
    cut = Cut(settings.split_rule, names_of_paths([image.path.relative_to(listing.root) for image in listing.images]))
    places: dict[str, list[int]] = {}
    for place, image in enumerate(listing.images):
        places.setdefault(image.split, []).append(place)
    found = {split: SplitRows(torch.tensor(rows), labels[rows]) for split, rows in places.items()}
    splits = {"train": found["all"] if "all" in found else found["train"]}
    if settings.test == "val":
        if "val" not in found or "test" in found:
            raise DataError("there is no split `val` to test on, or one called `test` too", where="[data] test",
                            found=", ".join(found), expected="val, and no test", fix="leave `test` out")
        splits["test"] = found["val"]
    elif "all" in found:
        splits["train"], splits["test"] = held_out(splits["train"], TEST_SHARE, "test", cut)
    else:
        splits |= {name: found[split] for name, split in {"validation": "val", "test": "test"}.items()
                   if split in found}
    if "validation" not in splits:
        splits["train"], validation = held_out(splits["train"], settings.validation, "validation", cut)
        splits = {"train": splits["train"], "validation": validation, **splits}
    kept = cut.first(splits["train"].ids, splits["train"].labels, labels[splits["train"].ids], settings.limit)
    splits["train"] = SplitRows(splits["train"].ids[kept], splits["train"].labels[kept])
    return splits
