"""Studies over seeds: measured seeds are kept, arms are compared in pairs, intervals are Student's."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks import studies
from neuroimagen.data_shards.common.errors import UserError


def arguments(json_path: Path | None, work: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(json=json_path, work=work)


def test_a_measured_seed_is_not_measured_again(tmp_path: Path) -> None:
    file, calls = tmp_path / "figures.json", []

    def measure(seed: int, folder: Path) -> studies.Figures:
        calls.append(seed)
        if seed == 7 and calls.count(7) == 1:
            raise RuntimeError("killed")
        return {"figure": 10 * seed}

    with pytest.raises(RuntimeError, match="killed"):
        studies.measured({"size": 1}, [5, 7], measure, arguments(file))
    found = studies.measured({"size": 1}, [7, 5], measure, arguments(file))
    assert calls == [5, 7, 7]
    assert [(study["seed"], study["figure"]) for study in found] == [(7, 70), (5, 50)]
    assert [study["seed"] for study in json.loads(file.read_text())["studies"]] == [5, 7]


def test_figures_of_another_configuration_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    studies.measured({"size": 1}, [0], lambda seed, folder: {}, arguments(file))
    before = file.read_bytes()
    with pytest.raises(UserError, match="another configuration"):
        studies.measured({"size": 2}, [0], lambda seed, folder: {}, arguments(file))
    assert file.read_bytes() == before


def test_each_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = []
    studies.measured({}, [1, 2], lambda seed, folder: folders.append(folder) or {}, arguments(None, tmp_path))
    assert folders == [tmp_path / "seed-1", tmp_path / "seed-2"]


def test_the_summary_joins_the_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    studies.measured({}, [1], lambda seed, folder: {"figure": 1}, arguments(file))
    studies.add_summary({"mean": 2}, [1], file)
    report = json.loads(file.read_text())
    assert report["over_seeds"] == {"seeds": [1], "mean": 2}
    assert report["studies"][0]["figure"] == 1


def test_three_seeds_have_two_degrees_of_freedom() -> None:
    found = studies.over_seeds([0.1, 0.2, 0.4])
    half = 4.302653 * np.std([0.1, 0.2, 0.4], ddof=1) / np.sqrt(3)  # t(0.975; 2), from a table
    assert found["mean"] == pytest.approx(0.7 / 3)
    assert (found["low"], found["high"]) == pytest.approx((0.7 / 3 - half, 0.7 / 3 + half), abs=1e-6)


def test_no_share_is_reported_beyond_its_range() -> None:
    assert studies.percent(studies.over_seeds([0.7, 0.9], within=(0.0, 1.0))) == "80.0 [0.0, 100.0]"


def test_what_both_arms_share_cancels() -> None:
    rng = np.random.default_rng(0)
    stimuli = np.repeat(np.arange(50), 2)
    shared = rng.standard_normal(50)[stimuli]
    found = studies.paired(shared + 0.1, shared, stimuli)
    assert found["difference"]["value"] == pytest.approx(0.1)
    assert found["difference"]["high"] - found["difference"]["low"] < 1e-5
    assert found["first"]["high"] - found["first"]["low"] > 0.3
    assert found["first"]["value"] - found["second"]["value"] == pytest.approx(0.1)


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no recipe"):
        studies.neuroimagen("train", "masked", "--config", str(tmp_path / "none.yaml"), "--run", str(tmp_path / "run"))


def test_percent() -> None:
    assert studies.percent({"mean": 0.1234, "low": 0.1, "high": 0.15}) == "12.3 [10.0, 15.0]"
    assert studies.percent({"value": 0.5, "low": None, "high": None}, centre="value") == "50.0"
