"""Fusion: a sample is a pair of registered images, and a network gives one image that has what both show.

There is no true fused image. A network can learn from the pair itself, by what is brightest and sharpest in it, and
from another network; it is judged by numbers that need no true image.
"""

from tutelage.data.source import Data
from tutelage.data.splits import first
from tutelage.errors import DataError, ModelError
from tutelage.graph.fused_images import brightest, l1, sharpest, ssim_loss
from tutelage.tasks.fusion.judge import SCORES, judge_of_epochs, judge_of_fusion
from tutelage.tasks.fusion.rows import fused, mean_image, sources_of
from tutelage.tasks.task import Task, Term

LOOKED_AT = 8
"""So many training pairs are looked at before a run."""
SHARPNESS, STRUCTURE = 10.0, 0.5
"""The weights of `sharpest` beside `brightest`, as SeAFusion has them, and of `ssim_loss` beside `l1`."""


def check_sources(data: Data) -> None:
    """Refuse data that bring no sources in [0, 1], by a few training pairs."""
    (batch,) = data.train.batches([first(data.train.ids, LOOKED_AT)], draw=None)
    try:
        sources = sources_of(batch.labels)
    except ModelError as error:
        raise DataError(error.what, where="training data", found=error.found, expected=error.expected,
                        fix='give the set pairs of images, or leave task = "fusion" out') from None
    least, most = (float(end) for end in sources.aminmax())
    if not (least >= 0 and most <= 1):
        raise DataError("images outside of [0, 1]", where="training data", found=f"{least:.3g} .. {most:.3g}",
                        expected="0 .. 1", fix="scale them")


FUSION = Task("fusion", SCORES, check_sources, judge_of_epochs,
              learn=(Term(brightest, label="sources", rows=fused),
                     Term(sharpest, label="sources", rows=fused, weight=SHARPNESS)),
              imitate=(Term(l1, rows=fused), Term(ssim_loss, rows=fused, weight=STRUCTURE)),
              mean=mean_image, rows=(fused,), exclusive=False, logits=False, assess=judge_of_fusion, samples="pairs")
