"""Which condition an evaluation is about: the chosen one, else full, else the first from the EEG."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.headline.headline import Headline, headline_of
from neuroimagen.trainer.reconstruction.headline import Choice, write_choice
from neuroimagen.trainer.reconstruction.manifest import Reconstructions


def drawn(*names: str, **settings: Any) -> dict[str, Reconstructions]:
    none = np.zeros(0, dtype=np.int64)
    return {
        name: Reconstructions(
            condition=name,
            folder=Path(name),
            settings={"seed": 0, "split": "test", "guidance": 2.0, "made_of": f"parts of {name}", **settings},
            segments=(),
            stimulus_keys=(),
            labels=none,
            subjects=none,
            samples=none,
            files=(),
        )
        for name in names
    }


def choose(run: Path, name: str = "image_only", **settings: Any) -> Choice:
    made = {"condition": name, "seed": 0, "split": "val", "guidance": 2.0, "segments": 4, **settings}
    choice = Choice(
        condition=name,
        by={"ssim": 1.0},
        num_segments=4,
        num_stimuli=2,
        figures={name: {"objective": {"value": 0.5, "low": None, "high": None}}},
        settings={name: made},
    )
    write_choice(run, choice)
    return choice


def test_without_a_choice_it_is_full_or_the_first_from_the_eeg(tmp_path: Path) -> None:
    headline = headline_of(tmp_path, drawn("mean_image", "semantic_only", "full"))
    assert headline == Headline(condition="full", made_of="parts of full")
    assert headline.statement is None
    other = headline_of(tmp_path, drawn("mean_image", "oracle_image", "image_only"))
    assert other.condition == "image_only"
    assert other.statement is not None
    assert other.statement.heading == "The headline: image embedding only"
    assert "No condition was chosen" in other.statement.text
    assert "It is made of: parts of image_only." in other.statement.text
    assert headline_of(tmp_path, {}).condition == "full"


def test_the_chosen_condition_is_the_headline_and_says_so(tmp_path: Path) -> None:
    choice = choose(tmp_path)
    headline = headline_of(tmp_path, drawn("full", "image_only"))
    assert (headline.condition, headline.choice, headline.changed) == ("image_only", choice, ())
    assert headline.statement is not None
    assert headline.statement.text == f"{choice.sentence} It is made of: parts of image_only."
    assert headline.stale_statement is None
    assert headline.tree()["chosen"] == choice.sentence
    assert headline_of(tmp_path, {}).choice is None  # a run that is measured by its EEG alone


def test_a_chosen_condition_that_was_not_drawn_whole_is_refused(tmp_path: Path) -> None:
    choose(tmp_path)
    with pytest.raises(UserError, match=r"image_only, was chosen on validation, but it was not drawn\. Run"):
        headline_of(tmp_path, drawn("full"))
    with pytest.raises(UserError, match=r"drawn for 60 segments only\. Run .*--overwrite"):
        headline_of(tmp_path, drawn("full", "image_only", segments=60))


def test_other_settings_than_those_of_the_choice_are_a_warning(tmp_path: Path) -> None:
    choose(tmp_path, guidance=5.0)
    headline = headline_of(tmp_path, drawn("full", "image_only"))
    assert headline.changed == ("guidance 5.0 → 2.0",)
    assert headline.stale_statement is not None
    assert "guidance 5.0 → 2.0" in headline.stale_statement.text


def test_a_drift_surrogate_without_image_embeddings_is_compared_with_neuroimagen(tmp_path: Path) -> None:
    surrogate = drawn("full")["full"]
    with_image = drawn("full", image={"ip_adapter": "image"})["full"]
    assert headline_of(tmp_path, drawn("full"), surrogate=surrogate).surrogate_of == "full"
    assert headline_of(tmp_path, drawn("full", "neuroimagen"), surrogate=surrogate).surrogate_of == "neuroimagen"
    assert headline_of(tmp_path, drawn("full", "neuroimagen"), surrogate=with_image).surrogate_of == "full"
