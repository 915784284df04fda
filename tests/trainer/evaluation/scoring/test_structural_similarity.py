"""SSIM against scikit-image, torchmetrics and closed forms; and against the loss' own implementation."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from smooth_images import random_images

from neuroimagen.trainer.evaluation.scoring import structural_similarity as structural_similarity_module
from neuroimagen.trainer.evaluation.scoring.structural_similarity import BlurredReferences, ssim
from neuroimagen.trainer.networks import gan


@pytest.mark.parametrize(("height", "width"), [(64, 64), (23, 31), (11, 12)])
def test_ssim_agrees_with_scikit_image_and_torchmetrics(height: int, width: int) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = random_images(0, height=height, width=width), random_images(1, height=height, width=width)
    measured = ssim(x, y, batch_size=2)
    expected = [
        structural_similarity(
            a / 255,
            b / 255,
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(measured, expected, atol=1e-5)
    other = structural_similarity_index_measure(
        torch.from_numpy(x) / 255, torch.from_numpy(y) / 255, data_range=1.0, reduction="none", return_full_image=True
    )[1]
    inside = other[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))  # it averages over reflected borders too; leave them out
    np.testing.assert_allclose(measured, inside.numpy(), atol=1e-5)


def test_ssim_closed_forms() -> None:
    x = random_images(3)
    np.testing.assert_allclose(ssim(x, x), 1.0, atol=1e-6)
    low, high = (np.full((1, 3, 16, 16), value, dtype=np.uint8) for value in (51, 204))  # 0.2 and 0.8: no structure
    expected = (2 * 0.2 * 0.8 + 0.01**2) / (0.2**2 + 0.8**2 + 0.01**2)
    np.testing.assert_allclose(ssim(low, high), expected, atol=1e-4)
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(x[:, :, :8, :8], x[:, :, :8, :8])


def test_the_loss_computes_the_same_ssim() -> None:
    x, y = random_images(0, height=32, width=32), random_images(1, height=32, width=32)
    differentiable = gan.ssim(*(torch.from_numpy(images) / 255 for images in (x, y)), data_range=1.0)
    np.testing.assert_allclose(differentiable.numpy(), ssim(x, y), atol=1e-5)


def test_references_are_blurred_once_and_no_more_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    references, images = random_images(0, height=16, width=20), random_images(1, height=16, width=20)
    columns = np.array([2, 0, 2, 1, 0, 2])
    shown = images[np.arange(6) % len(images)]
    expected = ssim(shown, references[columns])
    blurs = []
    original = structural_similarity_module._gaussian_blur

    def counted(x: torch.Tensor) -> torch.Tensor:
        blurs.append(len(x))
        return original(x)

    monkeypatch.setattr(structural_similarity_module, "_gaussian_blur", counted)
    blurred = BlurredReferences(references)
    for _ in range(2):
        np.testing.assert_allclose(blurred.ssim(shown, columns, batch_size=4), expected, atol=1e-7)
    # Three maps an image; of the references two each, the first time alone.
    assert blurs == [12, 6, 6, 12, 6]
    monkeypatch.setattr(structural_similarity_module, "_KEPT_BYTES", 2 * 2 * 4 * 3 * 6 * 10)
    few = BlurredReferences(references)
    for _ in range(2):
        np.testing.assert_allclose(few.ssim(shown, columns, batch_size=2), expected, atol=1e-7)
    assert len(few._kept) == 2
