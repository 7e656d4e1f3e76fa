"""Damaged images of a folder that are left out where a recipe says so: few of them, and never all of a class."""

from collections.abc import Mapping

import torch

from tutelage.data.assemble import SplitRows
from tutelage.data.folder import Listing
from tutelage.data.images import printable
from tutelage.errors import DataError, SecurityError, UserError

SKIPPED_AT_MOST = 0.01
"""Of the images of a split."""
SKIPPED_SHOWN = 20
"""Of the images that are left out, so many are named."""


def without_damaged(splits: Mapping[str, SplitRows], listing: Listing,
                    bad: Mapping[int, UserError]) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
    """The splits without damaged images, and a note of them; too many, or all of a class, are a DataError."""
    for error in bad.values():
        if isinstance(error, SecurityError):
            raise error
    kept, told, names = dict[str, SplitRows](), [], []
    for split, rows in splits.items():
        gone = torch.isin(rows.ids, torch.tensor(list(bad), dtype=torch.int64))
        kept[split] = SplitRows(rows.ids[~gone], rows.labels[~gone])
        own = [printable(listing.name(listing.images[place])) for place in rows.ids[gone].tolist()]
        found = f"{len(own)} of {len(gone)} images: {', '.join(own[:3])}" + (", ..." if len(own) > 3 else "")
        where, fix = f"{printable(listing.root)}, {split}", "replace or remove them; `tutelage check-data` lists them"
        lost = sorted(set(rows.labels[gone].tolist()) - {-1} - set(kept[split].labels.tolist()))
        if lost:
            raise DataError(f"every image of the class {listing.classes[lost[0]]!r} is damaged", where=where,
                            found=found, expected="one at least that can be read", fix=fix)
        if len(own) > SKIPPED_AT_MOST * len(gone):
            raise DataError("too many damaged images to leave out", where=where, found=found,
                            expected=f'at most {SKIPPED_AT_MOST:.0%} of a split (on_bad_image = "skip")', fix=fix)
        told += [f"{len(own)} of {len(gone)} of {split}"] if own else []
        names += own
    more = f" and {len(names) - SKIPPED_SHOWN} more" if len(names) > SKIPPED_SHOWN else ""
    note = f"damaged images are left out, {', '.join(told)}: {', '.join(names[:SKIPPED_SHOWN])}{more}"
    return kept, (note,) if names else ()
