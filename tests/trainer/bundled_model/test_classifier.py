"""Training the bundled classifier, for two steps: what it leaves is what the metrics load."""

from pathlib import Path

import torch

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.classifier import train_classifier
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.training_stimuli import draw_stimuli


def test_two_steps_leave_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    folders = [tmp_path / name for name in ("first", "second", "other")]
    stimuli = draw_stimuli(12, seed=0)
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        torch.manual_seed(7)  # of the initial weights; the steps draw from `seed`
        train_classifier(stimuli, folder, steps=2, seed=seed)
    first, second, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert first != other
    model = AutoModelForImageClassification.from_pretrained(folders[0])
    assert [model.config.id2label[label] for label in range(len(CLASSES))] == [item.wnid for item in CLASSES]
    assert model(pixel_values=stimuli.scaled(torch.arange(3))).logits.shape == (3, len(CLASSES))
    shipped = AutoModelForImageClassification.from_pretrained(bundled_model_path() / "classifier")
    assert shipped.state_dict().keys() == model.state_dict().keys()
    assert (folders[0] / "preprocessor_config.json").is_file()
