"""`bench finetuning`: conditions are paired by segment, and the figures are those of the study's reconstructions."""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks import finetuning
from neuroimagen.trainer.evaluation.results import find, read_results


def write_items(path: Path, items: list[tuple[str, str, str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "segment", "stimulus", *finetuning.METRICS])
        for row, segment, stimulus, value in items:
            writer.writerow([row, segment, stimulus, *[value] * len(finetuning.METRICS)])


def test_rows_are_paired_by_segment(tmp_path: Path) -> None:
    items = [("fine_tuned", "2", "b", 0.9), ("fine_tuned", "1", "a", 0.5)]
    items += [("semantic_only", "1", "a", 0.4), ("semantic_only", "2", "b", 0.6)]
    write_items(tmp_path / "items.csv", items)
    columns = finetuning.read_items(tmp_path / "items.csv")
    difference = columns["fine_tuned"]["two_way_clip"] - columns["semantic_only"]["two_way_clip"]
    assert difference == pytest.approx([0.1, 0.3])
    assert columns["fine_tuned"]["stimulus"].tolist() == columns["semantic_only"]["stimulus"].tolist() == [0, 1]


def test_rows_of_other_segments_are_refused(tmp_path: Path) -> None:
    write_items(tmp_path / "items.csv", [("fine_tuned", "1", "a", 0.9), ("semantic_only", "2", "a", 0.4)])
    with pytest.raises(ValueError, match="different segments"):
        finetuning.read_items(tmp_path / "items.csv")


def test_every_pair_has_the_same_start() -> None:
    from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS

    for tuned, frozen in finetuning.PAIRS.values():
        assert IMAGE_CONDITIONS[tuned].prompt == "fine_tuned"
        assert IMAGE_CONDITIONS[frozen].prompt in ("semantic", "semantic_detailed")
        assert IMAGE_CONDITIONS[tuned].start == IMAGE_CONDITIONS[frozen].start


@pytest.mark.slow  # nine commands, each a process that loads torch
def test_the_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    finetuning.run(argparse.Namespace(tiny=True, seeds=[3], work=tmp_path / "work", json=file))
    study = json.loads(file.read_text())["studies"][0]
    assert "from noise, two_way_clip" in capsys.readouterr().out
    results = read_results(tmp_path / "work" / "seed-3" / "run" / "report" / "results.json")
    for title, (tuned, frozen) in finetuning.PAIRS.items():
        for arm, row in (("fine_tuned", tuned), ("frozen", frozen)):
            for metric in ("two_way_clip", "pixcorr"):
                evaluated = find(results, row, metric)
                assert evaluated is not None
                # items.csv has six digits.
                assert study["pairs"][title][metric][arm]["value"] == pytest.approx(evaluated.value, abs=1e-5)
    assert study["beside"]["chance"]["two_way_clip"] == 0.5
    assert np.isfinite(study["beside"]["vae_round_trip"]["two_way_clip"])
