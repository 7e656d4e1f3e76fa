"""Rows of fused images: what they are, what they refuse, and the mean of several."""

import pytest
import torch

from tutelage.errors import ModelError
from tutelage.tasks.fusion.rows import fused, mean_image, sources_of

SOURCES = torch.rand(2, 2, 12, 14)


def test_a_row_is_an_image_with_its_sources():
    ends = {"s": torch.rand(2, 1, 12, 14)}
    seen = fused(ends, {"sources": SOURCES, "group": torch.zeros(2)})
    assert seen.values["s"] is ends["s"]
    assert seen.labels.keys() == {"sources"}
    assert seen.counts is None
    assert fused.total({"sources": SOURCES}) == 2


@pytest.mark.parametrize("shape", [(2, 3, 12, 14), (2, 1, 6, 7), (2, 10)])
def test_what_is_no_image_of_these_sources_is_refused(shape):
    with pytest.raises(ModelError, match="no fused image"):
        fused({"s": torch.rand(shape)}, {"sources": SOURCES})


def test_images_outside_of_the_unit_range_are_refused_before_a_run():
    fused.check({"s": torch.rand(1, 1, 4, 4)})
    with pytest.raises(ModelError, match=r"outside of \[0, 1\]"):
        fused.check({"s": torch.tensor([[[[0.2, 1.5]]]])})
    with pytest.raises(ModelError, match=r"outside of \[0, 1\]"):
        fused.check({"s": torch.tensor([[[[torch.nan, 0.5]]]])})


def test_labels_that_are_no_sources_are_refused():
    for labels in (torch.zeros(2), {"mask": SOURCES}, {"sources": SOURCES.long()}):
        with pytest.raises(ModelError, match="no sources"):
            sources_of(labels)


def test_an_ensemble_says_the_mean_image():
    assert mean_image(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).unique().tolist() == [0.5]
    with pytest.raises(ModelError, match="not images of one size"):
        mean_image(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
