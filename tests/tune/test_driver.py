"""The driver without Ray's processes: which trial comes next, what is recorded of it, what resources it gets."""

import io
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.config import search_of
from neuroimagen.tune.driver import Recorder, TrialSource, resources_of
from neuroimagen.tune.records import SearchFolder, TrialRecord

MARGIN = {"recipe": "r", "space": {"contrastive.margin": [0.1, 1.0]}}


def record(number: int, **keys: Any) -> TrialRecord:
    name = f"trials/{number:04d}"
    return TrialRecord(name=name, values={"contrastive.margin": 0.1 * number}, seed=3, **keys)


def given(source: TrialSource, trial_id: str) -> str | None:
    """The name of the trial that Ray is given, "FINISHED", or None if it has to ask again."""
    answer = source.suggest(trial_id)
    return answer["trial"] if isinstance(answer, dict) else answer


def test_interrupted_trials_come_first_then_promoted_ones_then_new_ones(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    new, promoted = [record(7)], [record(2), record(3)]
    asked: list[bool] = []

    def promote(nothing_else: bool) -> TrialRecord | None:
        asked.append(nothing_else)
        return promoted.pop() if promoted and (len(promoted) == 2 or nothing_else) else None

    source = TrialSource(folder, [record(1)], lambda: new.pop() if new else None, {"cwd": "here"}, promote)
    assert source.suggest("a") == {"cwd": "here", "trial": "trials/0001", "seed": 3, "contrastive.margin": 0.1}
    assert folder.read("trials/0001") == record(1)  # recorded before it starts
    assert given(source, "b") == "trials/0003"
    assert given(source, "c") == "trials/0007"
    assert given(source, "d") is None  # the result of a running trial may promote another one
    for trial_id in "abc":
        source.on_trial_complete(trial_id)
    assert asked == [False, False, False]
    assert given(source, "e") == "trials/0002"
    source.on_trial_complete("e")
    assert given(source, "f") == "FINISHED"
    assert asked[-1] is True


def test_without_promotions_the_source_ends_with_the_new_trials(tmp_path: Path) -> None:
    source = TrialSource(SearchFolder(tmp_path), [], lambda: None, {})
    assert given(source, "a") == "FINISHED"


class FakeTrial(SimpleNamespace):
    """What the recorder reads of Ray's trials."""

    def get_error(self) -> str:
        return "Traceback …\n\nWorkerLostError: exit code -9\n"


def test_a_trial_s_record_has_its_curve_its_end_and_its_retries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, told = SearchFolder(tmp_path), []
    recorder = Recorder(folder, told.append, total=2)
    folder.write(record(1, curve=((3, 0.25),), seconds=7.0))
    folder.trial("trials/0001").add_start()
    trial = FakeTrial(trial_id="a", config={"trial": "trials/0001"}, last_result=None)
    recorder.on_trial_start(0, [], trial)
    trial.config = {"trial": "trials/0009"}  # population-based training copies configurations
    recorder.on_trial_recover(0, [], trial)
    for step, value in ((9, 0.5), (6, 0.375)):
        trial.last_result = {"step": step, "value": value, "figures": {"knn_accuracy": value}, "finished": step == 9}
        recorder.on_trial_result(0, [], trial, trial.last_result)
    trial.last_result["finished"] = True
    recorder.on_trial_complete(0, [], trial)
    (made,) = told
    assert made == folder.read("trials/0001")
    assert (made.state, made.curve, made.steps) == ("finished", ((3, 0.25), (6, 0.375), (9, 0.5)), 9)
    assert (made.figures, made.num_starts, made.retries) == ({"knn_accuracy": 0.375}, 1, 1)
    assert made.seconds >= 7.0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "trials/0001: its worker process was lost; the trial is started again"
    assert printed[1] == "[1/2] trials/0001 0.5000  margin 0.1"


@pytest.mark.parametrize(
    ("last_result", "state", "message"),
    [
        ({"failed": "the loss is not finite", "done": True}, "failed", "the loss is not finite"),
        ({"step": 3, "value": 0.1, "figures": {}}, "stopped", ""),
    ],
)
def test_a_trial_that_fails_or_is_stopped_is_recorded_so(
    tmp_path: Path, last_result: dict[str, Any], state: str, message: str
) -> None:
    folder = SearchFolder(tmp_path)
    recorder = Recorder(folder, lambda ended: None, total=1)
    folder.write(record(1))
    trial = FakeTrial(trial_id="a", config={"trial": "trials/0001"}, last_result=last_result)
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_complete(0, [], trial)
    made = folder.read("trials/0001")
    assert (made.state, made.message) == (state, message)


def test_a_trial_whose_worker_is_lost_too_often_fails_with_the_last_error(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    recorder = Recorder(folder, lambda ended: None, total=1)
    folder.write(record(1))
    trial = FakeTrial(trial_id="a", config={"trial": "trials/0001"}, last_result=None)
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_error(0, [], trial)
    made = folder.read("trials/0001")
    assert made.state == "failed"
    assert made.message.endswith("the last error: WorkerLostError: exit code -9")


def test_a_terminal_shows_how_many_trials_have_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    folder = SearchFolder(tmp_path)
    recorder = Recorder(folder, _nobody, total=2)
    folder.write(record(1))
    trial = FakeTrial(trial_id="a", config={"trial": "trials/0001"}, last_result={"step": 3, "value": 0.1})
    recorder.on_trial_start(0, [], trial)
    assert "trials:   0%" in terminal.getvalue()
    recorder.on_trial_result(0, [], trial, trial.last_result)
    recorder.on_trial_complete(0, [], trial)
    assert "1/2" in terminal.getvalue()
    assert capsys.readouterr().out.startswith("[1/2] trials/0001 0.1000")
    stored = pickle.loads(pickle.dumps(recorder))  # Ray keeps its callbacks
    assert stored._bar is None
    assert stored._ended == {"trials/0001"}
    recorder.on_experiment_end([])
    assert terminal.getvalue().endswith("\r")


def _nobody(record: TrialRecord) -> None:
    """Is told, and does nothing. At the top level, so that it can be stored."""


def test_as_many_trials_run_as_fit() -> None:
    search = search_of(MARGIN | {"num_ranks": 2, "cpus_per_rank": 3}, "margin", where="x")
    found = resources_of(search, concurrent=None, num_cpus=20, num_gpus=0.0)
    assert (found.cpus, found.gpus, found.concurrent) == (6, 0.0, 3)
    found = resources_of(search, concurrent=None, num_cpus=20, num_gpus=4.0)
    assert (found.gpus, found.concurrent) == (2.0, 2)
    shared = search_of(MARGIN | {"gpus_per_rank": 0.25}, "margin", where="x")
    assert resources_of(shared, concurrent=None, num_cpus=20, num_gpus=1.0).concurrent == 4
    assert resources_of(shared, concurrent=2, num_cpus=20, num_gpus=1.0).concurrent == 2
    guidance = search_of({"space": {"reconstruct.guidance": [1.0, 2.0]}}, "guidance", where="x")
    assert resources_of(guidance, concurrent=None, num_cpus=2, num_gpus=0.0).cpus == 1


def test_what_does_not_fit_is_refused() -> None:
    search = search_of(MARGIN | {"num_ranks": 4}, "margin", where="x")
    with pytest.raises(UserError, match=r"a trial needs 4 CPUs and 0 GPUs, but there are 2 and 0\. Lower num_ranks"):
        resources_of(search, concurrent=None, num_cpus=2, num_gpus=0.0)
    with pytest.raises(UserError, match=r"--concurrent is 3, but 1 to 2 trials of 4 CPUs fit"):
        resources_of(search, concurrent=3, num_cpus=8, num_gpus=0.0)
