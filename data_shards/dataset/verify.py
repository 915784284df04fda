"""`data verify` compares every byte of a data set with its index."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.parquet import plain_texts
from neuroimagen.data_shards.format.schema import segment_json, segment_key, stimulus_json
from neuroimagen.data_shards.format.storage import Shards
from neuroimagen.data_shards.format.tar import BLOCK_BYTES, END_OF_ARCHIVE, member_header, padded, shard_name

_Members = list[tuple[str, int, int, bytes | None]]
"""A sample's members in the tar: name, offset of the content, its size, its bytes where the index determines them."""


def verify(location: str | Path) -> Iterator[str]:
    """Yield every problem found, as a line that names shard, key, offset and what is wrong.

    dataset.json holds the digests of the tables. The tables determine every tar header, every .json member and every
    byte of padding; images and EEG are checked by CRC and decoded. Raises UserError when dataset.json or a table is
    damaged, because then nothing else can be checked.
    """
    dataset = Dataset.open(location)
    if (dataset.folder / "dataset.json").read_bytes() != dataset.metadata.to_json().encode():
        yield f"{dataset.location}/dataset.json: its values are sound, but its bytes are not those that were written."
    yield from _unexpected_files(dataset)
    yield from _wrong_keys(dataset)
    stimuli, index = dataset.stimuli, dataset.index

    def stimulus_members(row: int) -> _Members:
        text = stimulus_json(
            label=int(stimuli.labels[row]),
            caption=stimuli.captions[row],
            detailed_caption=stimuli.detailed_captions[row],
            version=dataset.metadata.schema_version,
        )
        return _sample(
            stimuli.keys[row], stimuli.extensions[row], int(stimuli.offset[row]), int(stimuli.size[row]), text
        )

    def segment_members(row: int) -> _Members:
        text = segment_json(**dataset.segment_fields(row), version=dataset.metadata.schema_version)
        return _sample(segment_key(row), "eeg.npy", int(index.offset[row]), int(index.size[row]), text)

    def check_image(row: int) -> None:
        stimuli.image(row)

    def check_segment(row: int) -> None:
        if not np.isfinite(np.frombuffer(dataset.eeg_bytes(row), dtype="<f2")).all():
            shard = dataset.segments.where(int(index.shard[row]))
            raise UserError(f"{shard}: segment {segment_key(row)} at offset {index.offset[row]} holds NaN or infinity.")

    yield from _verify_shards("stimuli", stimuli.shards, stimuli.shard, stimuli.offset, stimulus_members, check_image)
    yield from _verify_shards("segments", dataset.segments, index.shard, index.offset, segment_members, check_segment)
    yield from _verify_latents(dataset)


def _sample(key: str, extension: str, offset: int, size: int, text: bytes) -> _Members:
    json_offset = offset + padded(size) + BLOCK_BYTES
    return [(f"{key}.{extension}", offset, size, None), (f"{key}.json", json_offset, len(text), text)]


def _verify_latents(dataset: Dataset) -> Iterator[str]:
    """latents.json holds the SHA-256 of itself, of its index and of each of its tars."""
    remote = dataset.remote
    folders = [path for path in sorted((dataset.folder / "latents").glob("*")) if not path.name.startswith(".")]
    for folder in folders + ([] if remote is None else remote.latent_folders()):
        try:
            store = LatentStore.open(folder, remote=remote)
        except UserError as error:
            yield str(error)
            continue
        metadata = store.metadata
        if (folder / "latents.json").read_bytes() != metadata.to_json().encode():
            yield f"{folder / 'latents.json'}: its values are sound, but its bytes are not those that were written."
        if folder.name != metadata.name:
            yield f"{folder}: its latents.json is that of {metadata.name}. Give the folder that name."
        if store.stimulus_keys != list(dataset.stimuli.keys):
            yield f"{folder}: these are latents of other stimuli, which are never used. Remove the folder."
        for shard in track(range(len(store.shards)), total=len(store.shards), desc=f"verify {metadata.kind}"):
            try:
                content = store.shards.view(shard)
            except UserError as error:
                yield str(error)
                continue
            if hashlib.sha256(content).hexdigest() != metadata.shard_sha256[shard]:
                yield f"{store.shards.where(shard)}: its SHA-256 is not the one in latents.json."
        if remote is None or not remote.is_latent_mirror(folder):
            expected = {"latents.json", "index.parquet", *map(shard_name, range(len(store.shards)))}
            for path in sorted(folder.iterdir()):
                if path.name not in expected:
                    yield f"{path}: this file does not belong to the data set."


def _verify_shards(
    name: str,
    shards: Shards,
    shard_of_row: np.ndarray,
    offset_of_row: np.ndarray,
    members_of_row: Callable[[int], _Members],
    check_sample: Callable[[int], None],
) -> Iterator[str]:
    rows_in_order = np.lexsort((offset_of_row, shard_of_row))
    borders = np.searchsorted(shard_of_row[rows_in_order], np.arange(len(shards) + 1))
    for shard in track(range(len(shards)), total=len(shards), desc=f"verify {name}"):
        try:
            content = shards.view(shard)
        except UserError as error:
            yield str(error)
            continue
        rows = rows_in_order[borders[shard] : borders[shard + 1]].tolist()
        yield from _verify_shard(shards.where(shard), content, rows, members_of_row, check_sample)


def _verify_shard(
    path: str,
    content: memoryview,
    rows: Sequence[int],
    members_of_row: Callable[[int], _Members],
    check_sample: Callable[[int], None],
) -> Iterator[str]:
    end = 0
    for row in rows:
        for name, offset, size, expected in members_of_row(row):
            if offset != end + BLOCK_BYTES:
                stray = offset - BLOCK_BYTES - end
                yield f"{path}: {name} at offset {offset}: {stray} bytes before it belong to no sample."
            end = offset + padded(size)
            if content[offset - BLOCK_BYTES : offset] != member_header(name, size):
                yield f"{path}: {name} at offset {offset}: its tar header is not the one written."
            if expected is not None and content[offset : offset + size] != expected:
                yield f"{path}: {name} at offset {offset}: its content differs from the index."
            if any(content[offset + size : end]):
                yield f"{path}: {name} at offset {offset}: the padding after it is not zero."
        try:
            check_sample(row)
        except UserError as error:
            yield str(error)
    if content[end:] != END_OF_ARCHIVE:
        yield f"{path}: offset {end}: the end of the archive is not where the last sample ends."


def _unexpected_files(dataset: Dataset) -> Iterator[str]:
    """A stray tar would be read by any other WebDataset reader."""
    for folder, shards in (("stimuli", dataset.stimuli.shards), ("segments", dataset.segments)):
        expected = {shard_name(shard) for shard in range(len(shards))}
        if dataset.remote is not None:
            found = dataset.remote.files.list(folder)
        else:
            place = dataset.folder / folder
            found = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
        for name in found:
            if name not in expected:
                yield f"{dataset.location}/{folder}/{name}: this file does not belong to the data set."


def _wrong_keys(dataset: Dataset) -> Iterator[str]:
    path = dataset.folder / "index.parquet"
    row = 0
    with pq.ParquetFile(path, read_dictionary=["key"]) as file:
        for batch in file.iter_batches(columns=["key"]):
            table = plain_texts(pa.Table.from_batches([batch]), where=str(path))
            for key in table.column(0).to_pylist():
                if key != segment_key(row):
                    yield f"{path}: row {row} has key {key!r}; expected {segment_key(row)!r}."
                row += 1
