"""The writer: deterministic, atomic, strict; and its shards open with tools that do not know the project."""

import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.encoding import decode_eeg
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DatasetWriter

METADATA = DatasetMetadata(name="t", n_channels=2, n_samples=4, sfreq=100.0, classes=(ClassInfo(name="a"),))
STIMULUS = StimulusRecord(key="s", image=b"\xff\xd8\xff", extension="jpg", label=0, caption="an image of a")
SEGMENT = SegmentRecord(eeg=np.ones((2, 4), dtype=np.float32), stimulus="s", label=0, subject=1, split="train")


def _write(out: Path, *records: StimulusRecord | SegmentRecord) -> None:
    with DatasetWriter(out, METADATA) as writer:
        for record in records:
            if isinstance(record, StimulusRecord):
                writer.add_stimulus(record)
            else:
                writer.add_segment(record)


def test_same_records_give_the_same_bytes(make_dataset) -> None:
    first, second = make_dataset(50, name="first"), make_dataset(50, name="second")
    files = sorted(path.relative_to(first.folder) for path in first.folder.rglob("*") if path.is_file())
    assert len([path for path in files if path.suffix == ".tar"]) > 1
    assert files == sorted(path.relative_to(second.folder) for path in second.folder.rglob("*") if path.is_file())
    for path in files:
        assert (first.folder / path).read_bytes() == (second.folder / path).read_bytes(), path


def test_shards_keep_to_their_size_and_nothing_is_left_beside_them(make_dataset) -> None:
    dataset = make_dataset(200, shard_bytes=1 << 16)
    sizes = [path.stat().st_size for path in sorted((dataset.folder / "segments").iterdir())]
    assert tuple(sizes) == dataset.metadata.segment_shards
    assert all(size <= 1 << 16 for size in sizes)
    assert [path.name for path in dataset.folder.parent.iterdir()] == [dataset.folder.name]


def test_tarfile_reads_every_sample(make_dataset) -> None:
    dataset = make_dataset(30)
    rows = 0
    for path in sorted((dataset.folder / "segments").iterdir()):
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
                content = archive.extractfile(member).read()
                key, extension = member.name.split(".", 1)
                if extension == "eeg.npy":
                    stored = np.load(io.BytesIO(content), allow_pickle=False)
                    assert stored.dtype == np.float16
                else:
                    fields = json.loads(content)
                    np.testing.assert_array_equal(decode_eeg(stored, fields["scale"]), dataset.eeg(int(key)))
                    assert fields["split"] == dataset.index.split[int(key)]
                    rows += 1
    assert rows == 30


def test_webdataset_reads_every_sample(make_dataset) -> None:
    import webdataset

    dataset = make_dataset(30)
    shards = [str(path) for path in sorted((dataset.folder / "segments").iterdir())]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode(only=["eeg.npy", "json"]))
    assert [sample["__key__"] for sample in samples] == dataset.index.key.tolist()
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(decode_eeg(sample["eeg.npy"], sample["json"]["scale"]), dataset.eeg(row))
    images = [str(path) for path in sorted((dataset.folder / "stimuli").iterdir())]
    captions = {
        sample["__key__"]: sample["json"]["caption"]
        for sample in webdataset.WebDataset(images, shardshuffle=False).decode(only=["json"])
    }
    assert captions == dict(zip(dataset.stimuli.keys, dataset.stimuli.captions, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eeg": np.ones((2, 5), dtype=np.float32)}, r"shape \(2, 5\); this data set holds \(2, 4\)"),
        ({"eeg": np.full((2, 4), np.nan, dtype=np.float32)}, "NaN"),
        ({"eeg": np.full((2, 4), np.inf, dtype=np.float32)}, "infinity"),
        ({"split": "training"}, "'training' is not one of"),
        ({"label": 1}, r"label 1 is outside 0\.\.0"),
        ({"stimulus": "other"}, "not added before"),
    ],
)
def test_wrong_segments_are_refused_and_nothing_is_left(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _write(tmp_path / "out", STIMULUS, SEGMENT, dataclasses.replace(SEGMENT, **change))
    assert list(tmp_path.iterdir()) == []


def test_wrong_stimuli_empty_sets_and_used_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="given twice"):
        _write(tmp_path / "out", STIMULUS, STIMULUS)
    with pytest.raises(UserError, match="no segment"):
        _write(tmp_path / "out", STIMULUS)
    for key in ("../x", "a.b", "a/b", "", "-a", "ä"):
        with pytest.raises(UserError, match="may hold letters"):
            dataclasses.replace(STIMULUS, key=key)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        _write(tmp_path / "out", STIMULUS, SEGMENT)
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_what_goes_in_comes_out(make_dataset) -> None:
    dataset = make_dataset(40)
    assert dataset.metadata.split_counts == {"train": 20, "val": 10, "test": 10}
    assert dataset.metadata.subjects == (1, 2)
    assert dataset.rows("train", subjects=[1]).tolist() == [row for row in range(40) if row % 4 == 0]
    assert dataset.index.order.tolist() == list(range(40))
    assert dataset.stimuli.detailed_captions[4] == "ein schönes Bild"
    assert dataset.stimuli.detailed_captions[5] is None
    assert dataset.stimuli.image(3).size == (20, 16)
    expected = make_dataset(40, name="again")
    assert dataset.digest == expected.digest
    assert dataset.digest != make_dataset(40, name="other", seed=1).digest


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("neuroimagen.data_shards.format.tar.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        _write(tmp_path / "out", STIMULUS, SEGMENT)
    assert list(tmp_path.iterdir()) == []


def _many(out: Path, *, pause: float = 0.0, workers: int = 2) -> DatasetWriter:
    """200 segments of 700 kB in all, in shards of 64 KiB, some inputs dropped on the way; starts where it may."""
    metadata = dataclasses.replace(METADATA, n_channels=8, n_samples=100)
    rng = np.random.default_rng(0)
    eegs = rng.standard_normal((250, 8, 100)).astype(np.float32)
    with DatasetWriter(out, metadata, shard_bytes=1 << 16, workers=workers, transform=np.negative) as writer:
        for number in range(writer.num_kept_stimuli, 90):
            writer.add_stimulus(dataclasses.replace(STIMULUS, key=f"s{number}", image=bytes([number]) * 1000))
        for position in range(writer.resume_position, 250):
            time.sleep(pause)
            if position % 5:
                segment = dataclasses.replace(SEGMENT, eeg=eegs[position], stimulus=f"s{position % 90}")
                writer.add_segment(segment, next_position=position + 1)
    return writer


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_neither_threads_nor_interruptions_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops at every single renaming in turn, and so between any two files."""
    _many(tmp_path / "undisturbed", workers=1)
    undisturbed = _bytes(tmp_path / "undisturbed")
    assert len([name for name in undisturbed if name.startswith("segments")]) > 6
    assert len([name for name in undisturbed if name.startswith("stimuli/")]) > 1
    rename, remaining = Path.replace, 0

    def stopping_rename(self: Path, target: Path) -> Path:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise KeyboardInterrupt
        return rename(self, target)

    for stop_at in range(40):
        out = tmp_path / f"stopped-{stop_at}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopping_rename)
            remaining = stop_at
            try:
                _many(out)
                finished = True
            except KeyboardInterrupt:
                finished = False
                assert not out.exists()
        if not finished:
            _many(out)
        assert _bytes(out) == undisturbed
        assert not list(tmp_path.glob(".*"))
        if finished:
            break
    else:
        pytest.fail("never finished undisturbed")


def test_killed_it_keeps_the_finished_shards(tmp_path: Path) -> None:
    """kill -9 of a real process; what it had finished is not written again, the rest is, and no byte differs."""
    _many(tmp_path / "undisturbed")
    out, unfinished = tmp_path / "killed", tmp_path / ".killed.part"
    child = os.fork()
    if child == 0:
        _many(out, pause=0.01)
        os._exit(0)
    while len(list((unfinished / "done").glob("segments-*"))) < 3:
        time.sleep(0.005)
    with pytest.raises(UserError, match="another process is writing"):
        DatasetWriter(out, dataclasses.replace(METADATA, n_channels=8, n_samples=100), shard_bytes=1 << 16).__enter__()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not out.exists()
    finished = {
        path.name: path.stat().st_mtime_ns
        for path in (unfinished / "data" / "segments").iterdir()
        if (unfinished / "done" / f"segments-{path.stem}.parquet").exists()
    }
    assert len(finished) >= 3
    _many(out)
    assert {name: (out / "segments" / name).stat().st_mtime_ns for name in finished} == finished
    assert _bytes(out) == _bytes(tmp_path / "undisturbed")


def test_what_another_job_left_is_not_used(tmp_path: Path) -> None:
    unfinished = tmp_path / ".out.part"
    (unfinished / "done").mkdir(parents=True)
    (unfinished / "data" / "segments").mkdir(parents=True)
    (unfinished / "data" / "segments" / "00007.tar").write_bytes(b"foreign")
    (unfinished / "job.json").write_text("{}")
    _write(tmp_path / "out", STIMULUS, SEGMENT)
    assert sorted(_bytes(tmp_path / "out")) == [
        "dataset.json",
        "index.parquet",
        "segments/00000.tar",
        "stimuli.parquet",
        "stimuli/00000.tar",
    ]


def test_a_disk_that_fills_late_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real, calls = os.fsync, iter(range(1000))

    def full_late(descriptor: int) -> None:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("neuroimagen.data_shards.format.tar.os.fsync", full_late)
        with pytest.raises(UserError, match=r"No space left on device.*finished shards are kept in"):
            _many(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / ".out.part"]
    _many(tmp_path / "out")
    _many(tmp_path / "other")
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "other")


@pytest.mark.slow
def test_killed_ten_times_the_simulation_ends_with_the_same_bytes(tmp_path: Path) -> None:
    size = ["--classes", "3", "--images-per-class", "600", "--channels", "16", "--shard-mib", "0.5"]
    command = [sys.executable, "-m", "neuroimagen.launch.cli", "data", "simulate", "--format", "shards", *size, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "undisturbed")], env=environment, check=True)
    num_shards = len(list((tmp_path / "undisturbed").rglob("*.tar")))
    assert num_shards > 20
    moments, unfinished, killed = random.Random(0), tmp_path / ".killed.part", []
    for kill in range(10):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        wanted = int(num_shards * (kill + moments.random()) / 12)
        while process.poll() is None and len(list((unfinished / "done").glob("*"))) < wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        assert process.poll() is None, "it was done before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append(len(list((unfinished / "done").glob("*"))))
    assert killed == sorted(killed)
    assert killed[-1] > 0
    if not (tmp_path / "killed").exists():
        subprocess.run([*command, str(tmp_path / "killed")], env=environment, check=True)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "undisturbed")


def test_reopened_data_set_reads_single_segments(make_dataset) -> None:
    dataset = Dataset.open(make_dataset(12).folder)
    rng = np.random.default_rng(0)
    for row in range(12):
        rng.integers(9)
        eeg = rng.standard_normal((5, 33)).astype(np.float32) * np.float32(10.0 ** (row % 7 - 3))
        assert_as_stored(dataset.eeg(row), eeg)
