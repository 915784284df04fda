"""The folder of a search: complete records, one process at a time, resumed only with the same search."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import search_of
from neuroimagen.tune.records import SearchFolder, TrialRecord, add_line, locked, open_search, read_lines, read_search

SEARCH = search_of({"recipe": "r", "space": {"contrastive.margin": [0.1, 0.5]}}, "margin", where="x")


def test_records_are_read_as_written(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    record = TrialRecord(
        name="trials/0003",
        values={"contrastive.margin": 0.5, "contrastive.positives": "all"},
        seed=4,
        state="stopped",
        figures={"knn_accuracy": 0.25},
        curve=((3, 0.1), (6, 0.25)),
        steps=6,
    )
    folder.write(record)
    folder.write(replace(record, name="trials/0001", state="running"))
    folder.write(replace(record, name="confirm/best-1000"))
    assert folder.read("trials/0003") == record
    assert [item.name for item in folder.records()] == ["trials/0001", "trials/0003"]
    assert [item.has_ended for item in folder.records()] == [False, True]
    (tmp_path / "trials" / "0003" / "trial.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        folder.records()


@pytest.mark.parametrize("value", [0.3, "0.5", None, float("nan")])
def test_a_setting_that_the_search_does_not_try_is_damage(tmp_path: Path, value: object) -> None:
    folder = SearchFolder(tmp_path)
    with locked(folder):
        open_search(folder, SEARCH, Recipe(), resume=False)
    folder.write(TrialRecord(name="trials/0000", values={"contrastive.margin": 0.5}, seed=0))
    assert len(folder.records()) == 1
    folder.write(TrialRecord(name="confirm/default-1000", values={"contrastive.margin": value}, seed=0))  # type: ignore[dict-item]
    assert len(folder.records("confirm")) == 1
    folder.write(TrialRecord(name="trials/0001", values={"contrastive.margin": value}, seed=0))  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"0001/trial\.json is damaged \(contrastive\.margin is .*search does not try"):
        folder.records()


def test_an_unfinished_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    add_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2')
    assert read_lines(path) == [{"a": 1}]
    assert read_lines(tmp_path / "absent") == []


def test_two_searches_in_one_folder_are_refused(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from neuroimagen.tune.records import SearchFolder, locked\n"
        "with locked(SearchFolder(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {other.pid} is searching"), locked(SearchFolder(tmp_path)):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(SearchFolder(tmp_path)):  # the lock has ended with its process
        pass


def test_a_search_is_resumed_by_itself_only(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out")
    with locked(folder):
        open_search(folder, SEARCH, Recipe(), resume=False)
    assert read_search(folder) == (SEARCH, Recipe())
    with pytest.raises(UserError, match="Continue it with --resume"):
        open_search(folder, SEARCH, Recipe(), resume=False)
    open_search(folder, replace(SEARCH, num_trials=99), Recipe(), resume=True)  # a longer search is still the same
    for other, recipe, words in (
        (replace(SEARCH, seed=1), Recipe(), "seed"),
        (SEARCH, Recipe(seed=1), "seed"),
        (replace(SEARCH, objective="accuracy"), Recipe(), "objective"),
    ):
        with pytest.raises(UserError, match=words):
            open_search(folder, other, recipe, resume=True)
    guidance = search_of({"space": {"reconstruct.guidance": [1.0, 2.0]}}, "guidance", where="x")
    with pytest.raises(UserError, match="another kind"):
        open_search(folder, guidance, Recipe(), resume=True)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="something other than a search"):
        open_search(SearchFolder(tmp_path), SEARCH, Recipe(), resume=False)
    assert json.loads(json.dumps([path.name for path in tmp_path.iterdir()])) == ["thesis.tex"]


def test_a_search_that_an_earlier_version_has_begun_is_resumed(tmp_path: Path) -> None:
    """Its search.json has an earlier name of a key and lacks a new key; population-based training wrote forks.jsonl."""
    folder = SearchFolder(tmp_path / "out")
    search = search_of({"space": {"reconstruct.guidance": [1.0, 2.0]}}, "guidance", where="x")
    open_search(folder, search, Recipe(), resume=False)
    tree = json.loads(folder.search.read_text())
    tree["search"]["row"] = tree["search"].pop("condition")
    del tree["search"]["num_reports"]
    folder.search.write_text(json.dumps(tree))
    assert read_search(folder) == (search, Recipe())
    open_search(folder, search, Recipe(), resume=True)
    assert json.loads(folder.search.read_text())["search"]["condition"] == "full"

    trial = folder.trial("trials/0000")
    assert (trial.copies.name, trial.newest_run.name) == ("copies.jsonl", "run")
    add_line(trial.path / "forks.jsonl", {"from": "trials/0001", "run": 0, "step": 3, "values": {}})
    trial = folder.trial("trials/0000")
    assert (trial.num_copies, trial.newest_run.name) == (1, "run-1")
    add_line(trial.copies, {"from": "trials/0002", "run": 1, "step": 6, "values": {}})
    assert folder.trial("trials/0000").newest_run.name == "run-2"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("figures", {"knn_accuracy": "0.5"}),
        ("figures", []),
        ("curve", [[0.5, 1.0]]),
        ("curve", [[1, None]]),
        ("values", ["contrastive.margin"]),
        ("values", {"contrastive.margin": [1]}),
        ("name", "../../elsewhere"),
        ("state", "done"),
        ("steps", -1),
        ("num_starts", True),
        ("message", {}),
        ("seconds", "1"),
        ("unknown", 1),
    ],
)
def test_a_record_with_an_odd_field_is_named(tmp_path: Path, field: str, value: object) -> None:
    folder = SearchFolder(tmp_path)
    record = TrialRecord(name="trials/0003", values={"contrastive.margin": 0.5}, seed=4)
    folder.write(record)
    path = folder.trial(record.name).record
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError, match=r"trial\.json is damaged .*Remove .*0003 to run the trial again"):
        folder.records()


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "margin", "search": 3}', '{"kind": [], "search": {}}', "{"])
def test_a_damaged_search_is_named_when_it_is_resumed(tmp_path: Path, content: str) -> None:
    folder = SearchFolder(tmp_path / "out")
    open_search(folder, SEARCH, Recipe(), resume=False)
    folder.search.write_text(content)
    with pytest.raises(UserError, match=f"{folder.path} does not hold a search"):
        open_search(folder, SEARCH, Recipe(), resume=True)
    with pytest.raises(UserError, match=f"{folder.path} does not hold a search"):
        read_search(folder)
