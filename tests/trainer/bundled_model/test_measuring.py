"""The figures of the bundled model's card."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, ResNetForImageClassification

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.measuring import identify, sample_sheet
from neuroimagen.trainer.bundled_model.training_stimuli import draw_stimuli

FOLDER = bundled_model_path()


@pytest.fixture(scope="module")
def networks() -> tuple[CLIPModel, ResNetForImageClassification]:
    clip = CLIPModel.from_pretrained(FOLDER / "clip").eval()
    return clip, ResNetForImageClassification.from_pretrained(FOLDER / "classifier").eval()


def test_the_stimuli_themselves_are_identified(networks) -> None:
    stimuli = draw_stimuli(2 * len(CLASSES), seed=4)
    found = identify(*networks, stimuli.scaled(torch.arange(2 * len(CLASSES))), stimuli)
    assert (found.two_way, found.top1, found.class_accuracy) == (1, 1, 1)


def test_images_of_other_stimuli_are_told_by_an_independent_count(networks) -> None:
    """Every image is of the class's other stimulus: the class is right, the stimulus is not."""
    n = 2 * len(CLASSES)
    stimuli = draw_stimuli(n, seed=4)
    drawn = stimuli.scaled(torch.arange(n).roll(len(CLASSES)))
    found = identify(*networks, drawn, stimuli)
    with torch.inference_mode():
        seen, true = (
            networks[0].get_image_features(pixel_values=x).pooler_output.numpy()
            for x in (drawn, stimuli.scaled(torch.arange(n)))
        )
    similarity = np.corrcoef(seen, true)[:n, n:]
    below = [(np.delete(row, i) < row[i]).mean() for i, row in enumerate(similarity)]
    assert found.two_way == pytest.approx(np.mean(below), abs=1e-6)
    assert found.top1 == 0
    assert found.class_accuracy == 1


def test_the_sheet_has_a_row_for_every_class() -> None:
    samples = torch.rand(3, 12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sheet = np.asarray(sample_sheet(samples))
    assert isinstance(sample_sheet(samples), Image.Image)
    assert sheet.shape == (3 * 4, 10 * 4, 3)
    expected = (samples[2, 9] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[8:, 36:], expected)
