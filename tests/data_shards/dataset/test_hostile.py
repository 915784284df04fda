"""Hostile and damaged data sets: every outcome is a named error or intact samples, never a crash or wrong data."""

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.schema import DatasetMetadata, metadata_digest, npy_header
from neuroimagen.data_shards.loading.plan import SequentialPlan
from neuroimagen.data_shards.loading.reader import Reader


def _edit_json(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "dataset.json"
    raw = json.loads(path.read_text())
    edit(raw)
    raw.pop("sha256")
    raw["sha256"] = metadata_digest(raw)
    path.write_text(json.dumps(raw))


def _replace_table(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a parquet file and its digest in dataset.json: damage that only a forger makes."""
    table = change(pq.read_table(folder / name))
    pq.write_table(table, folder / name)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _edit_json(folder, lambda raw: raw["tables"].__setitem__(name, digest))


def _with_value(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value
        field = table.schema.field(column)
        return table.set_column(table.schema.get_field_index(column), field, pa.array(values, type=field.type))

    return change


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shard", 99, "shard numbers run from 0 to 99"),
        ("shard", -1, "shard numbers run from -1"),
        ("offset", 1 << 60, "row 3 claims"),
        ("offset", (1 << 63) - 512, "row 3 claims"),  # with the size it would overflow to where no limit is passed
        ("offset", -512, "row 3 claims"),
        ("offset", 513, "row 3 claims"),
        ("size", 2**31 - 1, "row 3 claims"),
        ("size", 1, "row 3 claims"),
        ("label", 3, "label runs from 0 to 3"),
        ("label", -1, "label runs from -1"),
        ("stimulus", 9, r"stimulus runs from \d to 9"),
        ("scale", float("nan"), "scale is not a positive number"),
        ("scale", -1.0, "scale is not a positive number"),
        ("split", "secret", "'split' holds values other than"),
    ],
)
def test_forged_index_values_are_refused(make_dataset, column: str, value: object, message: str) -> None:
    folder = make_dataset(12).folder
    _replace_table(folder, "index.parquet", _with_value(column, 3, value))
    with pytest.raises(UserError, match=message):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("key", "../../etc/passwd", "is not allowed"),
        ("key", "a.pkl", "is not allowed"),
        ("key", "picture_0", "repeat"),
        ("extension", "pkl", "'pkl' is not allowed"),
        ("offset", 1 << 40, "row 3 claims"),
        ("label", 7, "label runs from 0 to 7"),
    ],
)
def test_forged_stimuli_are_refused(make_dataset, column: str, value: object, message: str) -> None:
    folder = make_dataset(12).folder
    _replace_table(folder, "stimuli.parquet", _with_value(column, 3, value))
    with pytest.raises(UserError, match=message):
        Dataset.open(folder)


def test_forged_tables_are_refused(make_dataset) -> None:
    folder = make_dataset(12).folder
    for change, message in (
        (lambda table: table.drop_columns(["crc32"]), "has columns"),
        (lambda table: table.slice(0, 5), "has 5 rows; dataset.json says 12"),
        (lambda table: table.cast(table.schema.set(3, pa.field("size", pa.int64(), nullable=False))), "has columns"),
    ):
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        _replace_table(copy, "index.parquet", change)
        with pytest.raises(UserError, match=message):
            Dataset.open(copy)
        shutil.rmtree(copy)
    (folder / "index.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    digest = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    _edit_json(folder, lambda raw: raw["tables"].__setitem__("index.parquet", digest))
    with pytest.raises(UserError, match="not a readable parquet file"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.update(schema_version=99), "schema version 99"),
        (lambda raw: raw.update(surprise=1), "unknown field 'surprise'"),
        (lambda raw: raw.pop("sfreq"), "field 'sfreq' is missing"),
        (lambda raw: raw.update(n_channels="5"), "n_channels is '5' where a whole number"),
        (lambda raw: raw.update(n_channels=10**9), "it must be 1..4096"),
        (lambda raw: raw.update(n_samples=-1), "n_samples is '-1'"),
        (lambda raw: raw.update(num_segments=True), "num_segments"),
        (lambda raw: raw.update(num_segments=10**12), "has 12 rows"),
        (lambda raw: raw.update(sfreq=float("nan")), "sfreq is nan"),
        (lambda raw: raw.update(classes=[{"name": "a"}]), "classes"),
        (lambda raw: raw.update(segment_shards=["64"]), "segment_shards"),
        (lambda raw: raw.update(segment_shards=[]), "there are 0 shards"),
        (lambda raw: raw.update(channel_names=["a"]), "1 channel names for 5"),
        (lambda raw: raw.update(band_hz=[1]), "band_hz"),
        (lambda raw: raw.update(tables={}), "gives no SHA-256"),
        (lambda raw: raw.update(provenance=[]), "provenance"),
        (lambda raw: raw.update(name=3), "name is '3'"),
    ],
)
def test_forged_metadata_is_refused(make_dataset, edit: Callable, message: str) -> None:
    folder = make_dataset(12).folder
    _edit_json(folder, edit)
    with pytest.raises(UserError, match=message):
        Dataset.open(folder)


def test_metadata_changed_by_hand_is_refused(make_dataset) -> None:
    path = make_dataset(12).folder / "dataset.json"
    path.write_text(path.read_text().replace('"sfreq": 250.0', '"sfreq": 256.0'))
    with pytest.raises(UserError, match=r"dataset\.json was changed after it was written"):
        Dataset.open(path.parent)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\udcff", '{"schema_version": 1}', "null"])
def test_files_that_are_no_metadata_are_refused(make_dataset, text: str) -> None:
    folder = make_dataset(12).folder
    (folder / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"dataset\.json"):
        Dataset.open(folder)


def test_absurdly_large_metadata_is_refused_unread(make_dataset) -> None:
    folder = make_dataset(12).folder
    with (folder / "dataset.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match="larger than 67,108,864 bytes"):
        Dataset.open(folder)


def _forge_segment(dataset: Dataset, row: int, content: bytes) -> Dataset:
    """Put `content` in the place of a segment, with a matching CRC in the index."""
    import zlib

    path = dataset.segments.path(int(dataset.index.shard[row]))
    offset = int(dataset.index.offset[row])
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + content + whole[offset + len(content) :])
    _replace_table(dataset.folder, "index.parquet", _with_value("crc32", row, zlib.crc32(content)))
    return Dataset.open(dataset.folder)


@pytest.mark.parametrize("kind", ["shape", "dtype", "objects", "header", "pickle"])
def test_samples_that_are_no_eeg_are_refused_even_with_a_matching_crc(make_dataset, kind: str) -> None:
    dataset = make_dataset(12)
    size = int(dataset.index.size[0])
    buffer = io.BytesIO()
    if kind == "shape":
        np.save(buffer, np.zeros((33, 5), dtype=np.float16))
    elif kind == "dtype":
        np.save(buffer, np.zeros((5, 33), dtype=np.int16))
    elif kind == "objects":
        np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "header":
        header = npy_header(5, 33).replace(b"(5, 33)", b"(9999999, 99999999)")
        buffer.write(header)
    else:
        buffer.write(b"cos\nsystem\n(S'true'\ntR.")
    content = buffer.getvalue()[:size].ljust(size, b"\0")
    forged = _forge_segment(dataset, 4, content)
    with pytest.raises(UserError, match=r"segment 000000004 at offset .* not a float16 array of the data set's shape"):
        forged.eeg(4)
    assert any("segment 000000004" in problem for problem in verify(forged.folder))


def _tar_with(path: Path, member: tarfile.TarInfo, size: int) -> None:
    """A tar of exactly `size` bytes that begins with a hostile member."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))


@pytest.mark.parametrize("kind", ["absolute", "parent", "symlink", "hardlink", "device", "fifo", "sparse", "twice"])
def test_hostile_tars_are_named_and_never_followed(make_dataset, kind: str) -> None:
    dataset = make_dataset(12)
    path = dataset.folder / "segments" / "00000.tar"
    member = tarfile.TarInfo("000000000.eeg.npy")
    member.size = 0
    match kind:
        case "absolute":
            member.name = "/etc/cron.d/x"
        case "parent":
            member.name = "../../x"
        case "symlink":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        case "hardlink":
            member.type, member.linkname = tarfile.LNKTYPE, "/etc/passwd"
        case "device":
            member.type, member.devmajor = tarfile.BLKTYPE, 8
        case "fifo":
            member.type = tarfile.FIFOTYPE
        case "sparse":
            member.type = tarfile.GNUTYPE_SPARSE
        case "twice":
            pass
    _tar_with(path, member, path.stat().st_size)
    problems = list(verify(dataset.folder))
    assert any(
        "00000.tar: 000000000.eeg.npy at offset 512: its tar header is not the one written" in p for p in problems
    )
    with pytest.raises(UserError, match=r"00000\.tar: segment 000000000 at offset 512 is damaged"):
        Dataset.open(dataset.folder).eeg(0)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, dict[str, bytes]]:
    """A small data set, its EEG, and its files' bytes."""
    from neuroimagen.data_shards.format.schema import ClassInfo, SegmentRecord, StimulusRecord
    from neuroimagen.data_shards.writing.writer import DatasetWriter

    folder = tmp_path_factory.mktemp("fuzz") / "data"
    rng = np.random.default_rng(0)
    metadata = DatasetMetadata(name="f", n_channels=3, n_samples=7, sfreq=1.0, classes=(ClassInfo(name="a"),) * 2)
    with DatasetWriter(folder, metadata) as writer:
        for label in (0, 1):
            writer.add_stimulus(
                StimulusRecord(key=f"s{label}", image=b"\xff\xd8\xff", extension="jpg", label=label, caption="c")
            )
        for row in range(6):
            eeg = rng.standard_normal((3, 7)).astype(np.float32)
            writer.add_segment(SegmentRecord(eeg=eeg, stimulus=f"s{row % 2}", label=row % 2, subject=1, split="train"))
    dataset = Dataset.open(folder)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}
    return folder, np.stack([dataset.eeg(row) for row in range(6)]), files


@settings(max_examples=300)
@given(data=st.data())
def test_fuzz_flipped_and_cut_bytes_give_a_named_error_or_the_same_samples(
    sound: tuple[Path, np.ndarray, dict[str, bytes]], data: st.DataObject
) -> None:
    folder, eeg, files = sound
    name = data.draw(st.sampled_from(sorted(files)), label="file")
    content = bytearray(files[name])
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4, unique=True)):
            content[place] ^= data.draw(st.integers(1, 255), label="bits")
    try:
        # A new file, not the old one overwritten: a process may have it mapped.
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        try:
            dataset = Dataset.open(folder)
        except UserError as error:
            assert Path(name).name in str(error)  # noqa: PT017
            return
        # Whatever opens, reads the same samples or says which is damaged.
        for row in range(6):
            try:
                batch = Reader(dataset, SequentialPlan(np.array([row]), 1)).read(np.array([row]))
            except UserError as error:
                assert ".tar" in str(error)  # noqa: PT017
            else:
                np.testing.assert_array_equal(batch.eeg[0].numpy(), eeg[row])
        assert list(verify(folder))
    finally:
        (folder / name).unlink()
        (folder / name).write_bytes(files[name])


def test_metadata_survives_its_own_json(make_dataset) -> None:
    metadata = make_dataset(12).metadata
    text = metadata.to_json()
    assert DatasetMetadata.from_json(text, where="x").to_json() == text
    assert dataclasses.replace(metadata, name="other").to_json() != text
