"""The file of a choice: it is read as it was written, a damaged one is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.reconstruction.headline import (
    Choice,
    choice_file,
    objective_words,
    read_choice,
    write_choice,
)


def figures(value: float) -> dict[str, dict[str, float | None]]:
    return {
        "objective": {"value": value, "low": value - 0.1, "high": None},
        "ssim": {"value": 0.5, "low": 0, "high": 1},
    }


CHOICE: dict[str, Any] = {
    "condition": "image_only",
    "by": {"two_way_clip": 1.0, "ssim": 3.0},
    "num_segments": 96,
    "num_stimuli": 48,
    "figures": {"full": figures(0.6), "image_only": figures(0.75)},
    "settings": {"full": {"seed": 0}, "image_only": {"seed": 0}},
}


def test_a_choice_is_read_as_it_was_written_and_says_how_it_was_made(tmp_path: Path) -> None:
    assert read_choice(tmp_path) is None
    write_choice(tmp_path, Choice(**CHOICE))
    choice = read_choice(tmp_path)
    assert choice == Choice(**CHOICE)
    assert choice.by_words == objective_words(CHOICE["by"]) == "0.25 · two_way_clip + 0.75 · ssim"
    assert choice.sentence == (
        "The headline is image_only, chosen on the validation split by 0.25 · two_way_clip + 0.75 · ssim on 96 "
        "segments of 48 stimuli: 0.750; the other candidates: full 0.600. Nothing of the test split was read for it."
    )
    alone = Choice(**{**CHOICE, "figures": {"image_only": figures(0.75)}})
    assert "there was no other candidate" in alone.sentence


@pytest.mark.parametrize(
    "change",
    [
        {"condition": "semantic_only"},
        {"condition": "imaginary"},
        {"figures": {"image_only": {}}},
        {"figures": {"image_only": {"objective": {"value": None}}}},
        {"settings": {}},
        {"figures": 3},
        {"more": 1},
    ],
)
def test_a_damaged_choice_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    choice_file(tmp_path).parent.mkdir()
    choice_file(tmp_path).write_text(json.dumps(CHOICE | change))
    with pytest.raises(UserError, match=r"choice/choice\.json is no choice of a headline .*Remove it"):
        read_choice(tmp_path)
    choice_file(tmp_path).write_text("[")
    with pytest.raises(UserError, match="is no choice of a headline"):
        read_choice(tmp_path)
