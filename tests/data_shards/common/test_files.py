"""Outputs that appear complete or not at all; folders that one job holds."""

import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from neuroimagen.data_shards.common import files
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, atomic_path, held_folder, refuse_existing, write_text


def fail_in_output(output: AbstractContextManager[Path]) -> None:
    """Write half of an output, and fail."""

    def job() -> None:
        with output as temporary:
            half = temporary / "half" if temporary.is_dir() else temporary
            half.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "below" / "a.json"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    fail_in_output(atomic_path(target))
    assert target.read_text() == "new"
    with pytest.raises(UserError, match=r"cannot write .*a\.json: No such file"), atomic_path(target):
        pass  # nothing was written under the temporary name
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    fail_in_output(atomic_folder(target))
    assert list(tmp_path.iterdir()) == []
    target.mkdir()  # an empty folder is replaced
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]
    with pytest.raises(UserError, match="is not empty"), atomic_folder(target):
        pass
    with pytest.raises(UserError, match="is not empty"):
        refuse_existing(target / "a")
    refuse_existing(tmp_path / "none")


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


def test_a_full_disk_under_safetensors_is_the_users(tmp_path: Path) -> None:
    """Else `--max-restarts` would repeat it: safetensors' error for it is no OSError."""
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for making in (atomic_folder, atomic_path):
        with pytest.raises(UserError, match=r"cannot write .*No space left on device"), making(tmp_path / "export"):
            raise full
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "export"):
        raise RuntimeError("a mistake of ours")


def test_a_text_is_written_whole_whatever_it_holds(tmp_path: Path) -> None:
    write_text(tmp_path / "folder" / "a.txt", "grün \ud800 \udcff\n")
    assert (tmp_path / "folder" / "a.txt").read_text(encoding="utf-8") == "grün ? ?\n"
