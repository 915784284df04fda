"""Recipes of the alignment stage: dry runs at real sizes, the published constants, and selection on validation."""

from pathlib import Path

import pytest

from neuroimagen.launch import commands
from neuroimagen.launch.cli import main
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.registry import STAGES

ROOT = Path(commands.__file__).resolve().parents[2]
RECIPES = ROOT / "launch" / "recipes"

PROJECTOR_1024 = 1024 * 1025 + 2 * 1024  # the residual block and the norm
TSCONV_63 = 40 * 26 + 4 * 40 + 40 * (40 * 63 + 1) + 40 * 41
# One block of width 250 with four heads of 62; the token that all subjects share, and one subject's difference from it.
TRANSFORMER = 250 * 251 + 3 * 248 * 251 + 250 * 249 + 256 * 251 + 250 * 257 + 3 * 500 + 2 * 250
PARAMETERS = {
    "things-eeg2-nice": TSCONV_63 + 768 * 1441 + 768 * 769 + 2 * 768,
    "things-eeg2-atm": TRANSFORMER + TSCONV_63 + 1024 * 1441 + PROJECTOR_1024,
    "things-eeg2-ubp": 1024 * (17 * 250 + 1) + PROJECTOR_1024,
}
"""By recipe: the encoder with its projector; the model has one more, the logit scale."""

EPOCHS = {
    "things-eeg2-nice": (200, 15_800),
    "things-eeg2-atm": (40, 4 * 15_800),
    "things-eeg2-ubp": (50, 15_800),
}
"""By recipe: the published number of epochs, and segments of a subject without 740 validation images."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_recipe_at_the_real_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "alignment", "--config", str(RECIPES / f"{name}.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    channels = 17 if name == "things-eeg2-ubp" else 63
    assert f"{channels} channels × 250 samples, 1854 classes" in printed
    assert f"model: {PARAMETERS[name] + 1:,} parameters" in printed
    page = (ROOT / "docs" / "reference" / "training.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if f"`{name}.yaml`" in line and line.startswith("|"))
    assert f"{PARAMETERS[name]:,}" in line


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("things-eeg2-nice", ("data.n_channels=17",)),
        ("things-eeg2-atm", ("data.n_channels=17", "data.subjects=[1,2,3,4,5,6,7,8,9,10]")),
        ("things-eeg2-ubp", ("data.n_channels=63",)),
        ("eegcvpr40-alignment", ()),
        ("eegcvpr40-alignment", ("encoder.kind=atm", "encoder.feature_size=768", "alignment.head=none")),
        ("demo", ("data.n_channels=128", "data.n_samples=440", "data.num_classes=12", "model.embedding_size=64")),
    ],
    ids=str,
)
def test_what_the_recipes_say_can_be_switched(name: str, changes: tuple[str, ...]) -> None:
    words = ["train", "alignment", "--config", str(RECIPES / f"{name}.yaml"), "--dry-run"]
    assert main([*words, *(["--set", *changes] if changes else [])]) == 0


def test_tokens_need_to_know_the_subjects(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "alignment", "--config", str(RECIPES / "things-eeg2-atm.yaml"), "--dry-run"]
    assert main([*words, "--set", "data.subjects=null"]) == 1
    assert "a dry run without the data set needs data.subjects" in capsys.readouterr().err


@pytest.mark.parametrize("name", EPOCHS)
def test_steps_are_the_published_epochs(name: str) -> None:
    section = load_recipe(RECIPES / f"{name}.yaml").stages["alignment"]
    epochs, segments = EPOCHS[name]
    # Rounded up to a multiple of ten at most.
    assert 0 <= section.steps - epochs * segments / section.batch_size < 10
    assert section.steps >= 10 * section.validate_every
    assert section.warmup_steps == 0
    assert section.final_learning_rate_fraction == 1.0


@pytest.mark.parametrize("name", [*PARAMETERS, "eegcvpr40-alignment", "demo"])
def test_the_weights_are_chosen_by_retrieval_among_validation_stimuli(name: str) -> None:
    section = load_recipe(RECIPES / f"{name}.yaml").stages["alignment"]
    assert section.validate_every < section.steps
    assert section.soft_targets == 0.0
    assert STAGES["alignment"].selection.metric == "mrr"


def test_the_demo_s_section_is_as_the_docs_have_it() -> None:
    section = load_recipe(RECIPES / "demo.yaml").stages["alignment"]
    assert (section.steps, section.batch_size, section.augment.shift_samples) == (200, 192, 12)
