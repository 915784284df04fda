"""A held folder: what a refused job leaves of it, and who may hold one that goes."""

import fcntl
import os
from pathlib import Path

import pytest

from neuroimagen.data_shards.common import files
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import held_folder


def fail_in(folder: Path, *, write: str | None = None) -> None:
    def job() -> None:
        with held_folder(folder, doing="training", option="--run"):
            if write:
                (folder / write).write_text("x", encoding="utf-8")
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        job()


def test_a_job_that_failed_before_it_wrote_leaves_nothing(tmp_path: Path) -> None:
    fail_in(tmp_path / "runs" / "a" / "contrastive")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "saliency").mkdir(parents=True)
    fail_in(run / "contrastive")
    assert list(run.iterdir()) == [run / "saliency"]
    fail_in(run / "saliency")  # an empty folder of the user's
    assert list((run / "saliency").iterdir()) == []
    (run / "saliency" / "notes.txt").write_text("mine", encoding="utf-8")
    fail_in(run / "saliency")
    assert [path.name for path in (run / "saliency").iterdir()] == ["notes.txt"]


def test_what_the_job_wrote_stays(tmp_path: Path) -> None:
    fail_in(tmp_path / "run" / "contrastive", write="log")
    assert {path.name for path in (tmp_path / "run" / "contrastive").iterdir()} == {".lock", "log"}
    fail_in(tmp_path / "run" / "contrastive")
    assert {path.name for path in (tmp_path / "run" / "contrastive").iterdir()} == {".lock", "log"}


def test_a_refused_job_leaves_the_lock_of_the_one_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "contrastive"
    with held_folder(folder, doing="training", option="--run"):
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} is training"),
            held_folder(folder, doing="training", option="--run"),
        ):
            pass
        assert (folder / ".lock").is_file()


def test_a_lock_that_went_while_it_was_waited_for_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job holds the folder, is refused and removes it, all between our opening the lock and our taking it."""
    folder = tmp_path / "run" / "contrastive"
    lock, taken = fcntl.flock, []

    def flock(file: object, operation: int) -> None:
        if not taken:
            (folder / ".lock").unlink()
            folder.rmdir()
        taken.append(file)
        lock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with held_folder(folder, doing="training", option="--run"):
        assert (folder / ".lock").read_text(encoding="utf-8") == str(os.getpid())
        assert len(taken) == 2
