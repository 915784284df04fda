"""Files, table and plot of an adaptation."""

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.adaptation.measuring import Adaptation, Figure
from neuroimagen.trainer.adaptation.output import draw, statements, text_table, write_adaptation
from neuroimagen.trainer.recipe.recipe import Recipe


def figure(method: str, minutes: float, value: float, **options: object) -> Figure:
    return Figure(
        **{  # type: ignore[arg-type]
            "stage": "contrastive",
            "method": method,
            "minutes": minutes,
            "num_segments": int(minutes * 60),
            "metric": "accuracy",
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "gain": value - 0.3,
            "gain_low": value - 0.4,
            "gain_high": value - 0.2,
            "least_of_seeds": value,
            "most_of_seeds": value,
            "n": 40,
            **options,
        }
    )


@pytest.fixture
def found() -> Adaptation:
    return Adaptation(
        subject=4,
        facts={
            "run": "first",
            "interval_text": "0.5 s, the length of a segment",
            "order": "random",
            "seeds": [0, 1, 2],
            "test_segments": 40,
            "test_stimuli": 20,
        },
        figures=[
            figure("nothing", 0.0, 0.3),
            figure("all", 1.0, 0.4),
            figure("all", 5.0, 0.65),
            figure("whitening", 1.0, 0.35, low=None, high=None),
            figure("all", 1.0, 0.2, stage="alignment", metric="embedding_top1"),
        ],
        definitions={
            "contrastive": {"accuracy": "share of hits"},
            "alignment": {"embedding_top1": "first of 20"},
        },
        chance={"contrastive": {"accuracy": 0.25}, "alignment": {"embedding_top1": 0.05}},
        absent={"classifier": "its classes are others"},
        notes=["there are 5 minutes"],
    )


def test_the_table_has_a_line_for_each_amount(found: Adaptation) -> None:
    head, rule, *lines = text_table(found).splitlines()
    assert head.split("  ")[0] == "stage"
    assert set(rule) == {"─"}
    cells = [re.split(r" {2,}", line) for line in lines]
    assert cells == [
        ["contrastive", "nothing", "0", "30.0 [20, 40]", "·"],
        ["contrastive", "all weights", "1", "40.0 [30, 50]", "·"],
        ["contrastive", "all weights", "5", "65.0 [55, 75]", "·"],
        ["contrastive", "whitening", "1", "35.0", "·"],
        ["alignment", "all weights", "1", "·", "20.0 [10, 30]"],
        ["contrastive", "chance", "25.0", "·"],
        ["alignment", "chance", "·", "5.0"],
    ]


def test_the_sentences_say_what_minutes_and_intervals_are(found: Adaptation) -> None:
    text = " ".join(statements(found))
    for words in (
        "segments times 0.5 s, the length of a segment",
        "in an order that each seed draws",
        "40 test segments of subject 4 (20 stimuli), the mean of 3 seeds",
        "bootstrap over stimuli",
        "contrastive, accuracy: share of hits.",
        "Not measured: classifier, because its classes are others.",
        "Note: there are 5 minutes.",
    ):
        assert words in text
    found.facts |= {"order": "time", "seeds": [0]}
    assert "in the order of recording" in statements(found)[0]
    assert "1 seed," in statements(found)[1]


def test_the_files_hold_every_figure(found: Adaptation, tmp_path: Path) -> None:
    out = tmp_path / "adapt" / "subject-4"
    write_adaptation(found, out, run=tmp_path, recipe=Recipe())
    assert {path.name for path in out.iterdir()} == {"adapt.json", "adapt.csv", "adapt.png", "adapt.svg"}
    tree = json.loads((out / "adapt.json").read_text())
    assert tree["run"] == "first"
    assert tree["chance"] == found.chance
    assert tree["not_measured"] == found.absent
    with (out / "adapt.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(tree["figures"]) == 5
    for line, item in zip(lines, tree["figures"], strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in item.items()}
    assert min(Image.open(out / "adapt.png").size) > 200
    svg = (out / "adapt.svg").read_text()
    assert "minutes of calibration data" in svg
    with pytest.raises(UserError, match="exists and is not empty"):
        write_adaptation(found, out, run=tmp_path, recipe=Recipe())


def test_the_plot_has_a_line_and_a_band_for_each_method(found: Adaptation) -> None:
    contrastive, alignment = draw(found).axes
    lines = {line.get_label(): line for line in contrastive.get_lines()}
    assert list(lines["all weights"].get_xdata()) == [1, 5]
    assert list(lines["all weights"].get_ydata()) == pytest.approx([40, 65])
    assert set(lines["nothing"].get_ydata()) == {30}
    assert set(lines["chance"].get_ydata()) == {25}
    (band,) = contrastive.collections
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(30)
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(75)
    assert contrastive.get_xscale() == "log"
    assert [tick.get_text() for tick in contrastive.get_xticklabels()] == ["1", "5"]
    low, high = alignment.get_xlim()
    assert low < 1 < high
