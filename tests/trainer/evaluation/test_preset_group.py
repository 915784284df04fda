"""The group of a preset's figures: what it has, and what it says that it can be compared with."""

import dataclasses

import numpy as np
import pytest
from simulated_run import Finished
from tiny_things import with_things

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.metrics.registry import METRICS
from neuroimagen.trainer.evaluation.preset_group import preset_group, preset_text
from neuroimagen.trainer.evaluation.results import Result
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions

RESULTS = [
    Result(condition="full", metric=metric, value=value, low=None, high=None, n=4, definition="d")
    for metric, value in (("ssim", 0.4), ("things_ssim", 0.3), ("things_clip", 0.75))
]


def test_it_says_why_the_figures_of_another_data_set_do_not_compare(finished: Finished, scoring: Scoring) -> None:
    headline = read_reconstructions(finished.run)["full"]
    dataset = Dataset.open(finished.data)
    group = preset_group(with_things(scoring), dataset, RESULTS, headline)
    assert group is not None
    assert group["metrics"] == ["things_ssim", "things_clip"]
    protocol, verdict, drawn, missing = group["notes"]
    assert protocol.startswith("The protocol is that of MindEye's evaluation")
    assert f"the data set is {dataset.metadata.name}, not THINGS-EEG2; there are 12 test stimuli, not 200" in verdict
    assert drawn.startswith("Here 24 segments of 2 subjects have one picture each, and none is picked.")
    assert "PixCorr, 425 px, AlexNet(2)" in missing
    assert "CLIP, THINGS" not in missing
    text = preset_text(group, RESULTS, notes={"full": "headline"})
    lines = text.splitlines()
    assert lines[0] == "Figures as THINGS papers print them:"
    assert lines[2].split() == ["SSIM,", "grey,", "425", "px", "CLIP,", "THINGS", "%"]
    assert lines[-4:] == group["notes"]
    assert preset_group(scoring, dataset, RESULTS, headline) is None


@pytest.mark.parametrize(
    ("repetitions", "says"),
    [
        ({"train": "keep", "test": "average"}, "Comparable with tables for the 200 test images of THINGS-EEG2"),
        ("average", "Comparable with"),
        ("keep", "test segments are single presentations"),
        ({"train": "average", "test": "keep"}, "--repetitions train=keep test=average"),
    ],
)
def test_a_things_eeg2_compares_where_its_test_segments_are_averages(
    finished: Finished, scoring: Scoring, repetitions: object, says: str
) -> None:
    dataset = Dataset.open(finished.data)
    metadata = dataclasses.replace(dataset.metadata, name="things-eeg2", preprocessing={"repetitions": repetitions})
    references = dataclasses.replace(scoring.references, stimuli=np.arange(200))
    scoring = dataclasses.replace(with_things(scoring), references=references)
    dataset.metadata = metadata
    drawn = read_reconstructions(finished.run)["full"]
    headline = dataclasses.replace(
        drawn, segments=("a", "b", "a", "b"), files=drawn.files[:4], subjects=np.array([3, 3, 3, 3])
    )
    group = preset_group(scoring, dataset, RESULTS, headline)
    assert group is not None
    assert says in group["notes"][1]
    assert "Here 2 segments of 1 subject have 2 pictures each, whose mean counts" in group["notes"][2]


def test_the_terminal_shows_four_metrics_beside_each_other(finished: Finished, scoring: Scoring) -> None:
    names = [name for name in METRICS if name.startswith("things_")]
    results = [
        Result(condition="full", metric=name, value=0.5, low=0.41, high=0.59, n=4, definition="d") for name in names
    ]
    group = preset_group(with_things(scoring), Dataset.open(finished.data), results, None)
    assert group is not None
    assert group["metrics"] == names
    assert len(group["notes"]) == 3  # nothing is missing
    lines = preset_text(group, results).splitlines()
    table = lines[: lines.index(group["notes"][0])]
    assert max(map(len, table)) <= 120
    assert sum(line.count("[41, 59]") + line.count("[0.41, 0.59]") for line in table) == 8


def test_networks_that_the_papers_do_not_have_are_named(finished: Finished, scoring: Scoring) -> None:
    scoring = with_things(scoring)
    assert scoring.networks.things is not None
    scoring.networks.things.deviations["clip"] = "a CLIP of 2 layers is not ViT-L/14"
    group = preset_group(scoring, Dataset.open(finished.data), RESULTS, None)
    assert group is not None
    says = "The figure of evaluate.things.clip does not compare with any paper's: a CLIP of 2 layers is not ViT-L/14."
    assert group["notes"][1].endswith(says)
    assert not group["notes"][2].startswith("Here")
