"""Divergences of fused images, with the golden values of their specification, torchmetrics and a loop beside them."""

import pytest
import torch
import torch.nn.functional as F

from tutelage.errors import ModelError
from tutelage.graph.fused_images import brightest, l1, sharpest, ssim_loss
from tutelage.graph.image_maps import sobel_strength, structural_similarity

A = torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 1, 16, 16)
B = A.flip(-1) * 0.5 + 0.25
BOTH = torch.cat([A, B], 1)


def test_the_golden_values_of_two_small_images():
    # The specification's 0.7473770199 was worked out with a window of float32; in float64 torchmetrics has this too.
    assert 1 - ssim_loss(A, B).item() == pytest.approx(0.7473770199, abs=1e-6)
    assert 1 - ssim_loss(A, B).item() == pytest.approx(0.7473763582557, abs=1e-12)
    assert l1(A, B).item() == pytest.approx(0.1267922794, abs=1e-8)
    assert brightest((A + B) / 2, BOTH).item() == pytest.approx(0.0633961397, abs=1e-8)
    assert sharpest((A + B) / 2, BOTH).item() == pytest.approx(0.1958486520, abs=1e-8)


def test_ssim_is_that_of_torchmetrics_image_by_image():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    images = torch.rand(3, 2, 20, 31, generator=torch.Generator().manual_seed(0))
    one, other = images[:, :1], 0.7 * images[:, 1:] + 0.3 * images[:, :1]
    told = metrics.structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
    torch.testing.assert_close(structural_similarity(one, other), told, atol=1e-5, rtol=0)


def test_edges_are_those_of_sobel_with_zeros_around():
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    across, down = (F.conv2d(B, k[None, None], padding=1) for k in (kernel, kernel.T))
    torch.testing.assert_close(sobel_strength(B), across.abs() + down.abs())


@pytest.mark.parametrize("divergence", [l1, ssim_loss, brightest, sharpest])
def test_the_same_image_costs_nothing_and_each_row_stands_for_itself(divergence):
    images = torch.rand(3, 1, 14, 12, generator=torch.Generator().manual_seed(1))
    others = images.roll(1, 0)
    assert divergence(images, images).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    alone = torch.cat([divergence(one[None], other[None]) for one, other in zip(images, others, strict=True)])
    torch.testing.assert_close(divergence(images, others), alone)
    assert bool((alone > 0.01).all())


def test_the_gradient_is_that_of_finite_differences():
    images = (0.1 + 0.8 * torch.rand(1, 1, 12, 12, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim_loss(x, A[..., :12, :12]), images)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ModelError, match="not images of one size"):
        l1(A, BOTH)
    with pytest.raises(ModelError, match="not of one size"):
        brightest(A, BOTH[..., :8])
    with pytest.raises(ModelError, match="window of SSIM"):
        ssim_loss(A[..., :10], B[..., :10])
