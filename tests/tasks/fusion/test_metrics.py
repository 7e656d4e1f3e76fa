"""Scores of fused images beside naive counts, numpy and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from tutelage.tasks.fusion import metrics

IMAGES = torch.rand(3, 1, 48, 44, generator=torch.Generator().manual_seed(0))
SOURCES = torch.rand(3, 2, 48, 44, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.5 * IMAGES


def bits(*values: np.ndarray) -> float:
    counts = np.unique(np.stack([value.ravel() for value in values]), axis=1, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def test_entropy_deviation_and_information_are_those_of_counts():
    levels, theirs = metrics.levels_of(IMAGES), metrics.levels_of(SOURCES)
    for row in range(3):
        own, a, b = levels[row, 0].numpy(), theirs[row, 0].numpy(), theirs[row, 1].numpy()
        assert metrics.level_entropy(levels)[row].item() == pytest.approx(bits(own), abs=1e-4)
        assert metrics.level_deviation(levels)[row].item() == pytest.approx(own.std(), rel=1e-5)
        wanted = sum(bits(own) + bits(other) - bits(own, other) for other in (a, b))
        assert metrics.shared_information(levels, theirs)[row].item() == pytest.approx(wanted, abs=1e-3)


def naive_qabf(image: np.ndarray, sources: np.ndarray) -> float:
    """Xydeas and Petrovic, place by place."""
    def edges(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
        across, down = (ndimage.correlate(picture, k, mode="nearest") for k in (kernel, kernel.T))
        slope = down / np.where(across == 0, 1, across)
        return np.hypot(across, down), np.where(across == 0, math.pi / 2, np.arctan(slope))

    own, angle = edges(image)
    kept = whole = 0.0
    for source in sources:
        strength, its = edges(source)
        for y, x in np.ndindex(*image.shape):
            high = max(own[y, x], strength[y, x])
            ratio = min(own[y, x], strength[y, x]) / high if high else 0.0
            aligned = 1 - abs(angle[y, x] - its[y, x]) / (math.pi / 2)
            quality = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (aligned - 0.8)))
            kept, whole = kept + quality * strength[y, x], whole + strength[y, x]
    return kept / whole


def test_qabf_is_that_of_a_loop_over_places():
    found = metrics.edges_kept(IMAGES, SOURCES)
    for row in range(2):
        wanted = naive_qabf(IMAGES[row, 0].double().numpy(), SOURCES[row].double().numpy())
        assert found[row].item() == pytest.approx(wanted, abs=1e-4)


def test_an_image_that_is_its_sources_keeps_their_edges_and_one_without_edges_none():
    twice = IMAGES.expand(3, 2, 48, 44)
    assert metrics.edges_kept(IMAGES, twice).min() > 0.95
    assert metrics.edges_kept(torch.full_like(IMAGES, 0.5), twice).max() < 0.01
    flat = torch.zeros(1, 2, 8, 8)
    assert metrics.edges_kept(flat[:, :1], flat).isnan().all()


def test_similarity_and_fidelity_are_sums_over_both_sources_by_torchmetrics():
    told = pytest.importorskip("torchmetrics.functional.image")
    parts = [SOURCES[:, :1], SOURCES[:, 1:]]
    ssim = sum(told.structural_similarity_index_measure(IMAGES, part, data_range=1.0, reduction="none")
               for part in parts)
    torch.testing.assert_close(metrics.similarity_to_sources(IMAGES, SOURCES), ssim, atol=1e-5, rtol=0)
    first = sum(told.visual_information_fidelity(255 * IMAGES[:1], 255 * part[:1]) for part in parts)
    found = metrics.fidelity_to_sources(IMAGES, SOURCES)
    assert found[0].item() == pytest.approx(first.item(), rel=1e-5)
    assert metrics.fidelity_to_sources(IMAGES[..., :40], SOURCES[..., :40]).isnan().all()


def test_noise_ratio_of_levels():
    assert metrics.psnr_of(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 25.5)) == pytest.approx(20)
    assert metrics.psnr_of(IMAGES, IMAGES) == 100
