"""results.json and items.csv: what they hold, also as earlier versions wrote them."""

import json
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.results import (
    Result,
    guessing,
    read_items,
    read_results,
    write_items,
    write_results,
)

FIGURE = {"metric": "accuracy", "value": 0.5, "low": 0.25, "high": None, "n": 3, "definition": "a definition"}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = [Result(condition=name, **FIGURE) for name in ("full", "drift_surrogate_full", "of another package")]
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    entries = json.loads((tmp_path / "results.json").read_text())
    assert list(entries[0]) == ["condition", "metric", "value", "low", "high", "n", "definition"]


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("full", "full"),
        ("phantom_drift", "drift_surrogate_linear_decoder"),
        ("phantom_drift_detrended", "drift_surrogate_linear_decoder_detrended"),
        ("phantom_full", "drift_surrogate_full"),
        ("phantom_eeg_classifier", "drift_surrogate_eeg_classifier"),
    ],
)
def test_files_of_earlier_versions_load_under_the_present_names(tmp_path: Path, former: str, present: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps([{"row": former, **FIGURE}]))
    assert read_results(tmp_path / "results.json") == [Result(condition=present, **FIGURE)]
    (tmp_path / "items.csv").write_text(f"row,segment,ssim\n{former},0,0.25\n")
    assert read_items(tmp_path / "items.csv") == [{"condition": present, "segment": "0", "ssim": "0.25"}]


def test_items_are_read_as_they_were_written(tmp_path: Path) -> None:
    items = [{"condition": "full", "segment": "0", "ssim": 0.25}, {"condition": "full", "segment": "1", "ssim": 1}]
    write_items(tmp_path / "items.csv", items)
    assert [float(line["ssim"]) for line in read_items(tmp_path / "items.csv")] == [0.25, 1]


@pytest.mark.parametrize("content", [None, "[", '[{"metric": "accuracy"}]', '[{"row": "full", "metric": "accuracy"}]'])
def test_what_is_no_results_file_is_an_error_that_says_what_to_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json.*Run `neuroimagen evaluate`"):
        read_results(tmp_path / "results.json")


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="full accuracy is nan"):
        Result(condition="full", **{**FIGURE, "value": float("nan")})


def test_guessing_is_the_higher_of_the_two_chances() -> None:
    chances = [
        Result(condition=name, **{**FIGURE, "value": p}) for name, p in (("chance", 1 / 12), ("chance_eeg", 0.25))
    ]
    assert guessing(chances) == 0.25
    assert guessing(chances[:1]) == 1 / 12
    assert guessing([]) is None
