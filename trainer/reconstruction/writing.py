"""Writes a row's pictures into a run: reconstructions/<row>/, whole or not at all, continued after an interruption."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.trainer.reconstruction.manifest import MANIFEST_FILE
from neuroimagen.trainer.reconstruction.reconstruct import ROWS, Picture, Reconstructor

_BATCH_SIZE_FILE = "batch_size.txt"
"""In the hidden folder of a row that is being made, where the batch size was not configured."""


@dataclass(frozen=True, kw_only=True)
class WrittenRow:
    """What became of a row."""

    name: str
    folder: Path
    num_pictures: int
    """Entries of the manifest; several may share a file where nothing depends on the segment."""
    made: bool
    """False: it was there already, with the same settings."""


def write_row(
    reconstructor: Reconstructor, name: str, *, ranks: ProcessShare | None = None, overwrite: bool = False
) -> WrittenRow:
    """Draw a row and write it. All ranks call it, share the batches, and return when it is finished.

    Raises UserError when the row is there with other settings and `overwrite` is not set.
    """
    ranks = ranks or ProcessShare()
    folder = reconstructor.run / "reconstructions" / name
    settings = {"row": name, **reconstructor.settings(name)}
    pictures = reconstructor.pictures(name)
    if _is_made(folder, settings, overwrite=overwrite):
        return WrittenRow(name=name, folder=folder, num_pictures=len(pictures), made=False)

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    part = folder.with_name(f".{name}-{digest}.part")
    files = [_file_name(reconstructor, name, picture) for picture in pictures]
    first_of_file: dict[str, Picture] = {}
    for file, picture in zip(files, pictures, strict=True):
        first_of_file.setdefault(file, picture)
    unique = list(first_of_file)
    size = reconstructor.config.batch_size
    try:
        part.mkdir(parents=True, exist_ok=True)
        if size is None and ranks.rank == 0:
            _choose_batch_size(reconstructor, name, part)
        ranks.wait()  # every rank has seen that the row is not made yet
        if size is None:
            size = int((part / _BATCH_SIZE_FILE).read_text(encoding="utf-8"))
        batches = [unique[first : first + size] for first in range(0, len(unique), size)]
        _draw_batches(reconstructor, name, part, first_of_file, batches[ranks.rank :: ranks.world_size])
        ranks.wait()
        if ranks.rank == 0:
            items = [_item(reconstructor, picture, file) for picture, file in zip(pictures, files, strict=True)]
            with atomic_path(part / MANIFEST_FILE) as path:
                path.write_text(json.dumps({**settings, "items": items}, indent=1) + "\n", encoding="utf-8")
            _put_in_place(part, folder, keep={MANIFEST_FILE, *unique})
        ranks.wait()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{size or 1} pictures at once do not fit into the memory of {ranks.device}. Lower "
            "reconstruct.batch_size, or set reconstruct.dtype to bfloat16; what is drawn already is kept."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}. Free space and run the same command again: "
            "it continues where it stopped."
        ) from error
    return WrittenRow(name=name, folder=folder, num_pictures=len(pictures), made=True)


def _choose_batch_size(reconstructor: Reconstructor, name: str, part: Path) -> None:
    """Put it down: whoever continues the row draws batches of the same composition, whatever memory is free then."""
    if not (part / _BATCH_SIZE_FILE).is_file():
        with atomic_path(part / _BATCH_SIZE_FILE) as path:
            path.write_text(f"{reconstructor.batch_size(name)}\n", encoding="utf-8")


def _draw_batches(
    reconstructor: Reconstructor, name: str, part: Path, first_of_file: Mapping[str, Picture], batches: list[list[str]]
) -> None:
    """Draw and write batches of files. Threads write a batch while the next is drawn: packing a picture of 512 px takes
    tens of milliseconds, and a fast GPU not much longer to draw one."""
    writing: list[Future[None]] = []
    with ThreadPoolExecutor() as threads:
        for batch in track(batches, desc=f"draw {name}", unit="batch"):
            # Whole batches are drawn again: their composition, and so every rounding, is that of an undisturbed run.
            if all((part / file).is_file() for file in batch):
                continue
            # A compiled pass serves one size of batch, and making another for the last few pictures would not pay.
            odd = reconstructor.config.compile and len(batch) < len(batches[0])
            with torch.compiler.set_stance("force_eager") if odd else nullcontext():
                drawn = reconstructor.draw(name, [first_of_file[file] for file in batch])
            for written in writing:
                written.result()
            paths = [part / file for file in batch]
            writing = [threads.submit(_write_png, path, picture) for path, picture in zip(paths, drawn, strict=True)]
        for written in writing:
            written.result()


def _is_made(folder: Path, settings: dict[str, object], *, overwrite: bool) -> bool:
    """Whether the row is there with these settings; UserError if it is there with others and may not be replaced."""
    path = folder / MANIFEST_FILE
    if not folder.exists():
        return False
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        del made["items"]
    except (OSError, ValueError, KeyError, TypeError):
        made = {}
    if made == settings:
        return True
    if overwrite:
        return False
    changed = [f"{key} {made.get(key)!r} → {value!r}" for key, value in settings.items() if made.get(key) != value]
    raise UserError(
        f"{folder} was made with other settings: {'; '.join(changed)}. Give --overwrite to make it again, or choose "
        "another --run."
    )


def _file_name(reconstructor: Reconstructor, name: str, picture: Picture) -> str:
    """Where a picture lies in its row's folder; pictures that cannot differ share a file."""
    start, prompt = ROWS[name].start, ROWS[name].prompt
    if prompt is None and start == "mean stimulus":
        return "mean.png"
    if prompt is None and start == "stimulus":
        dataset = reconstructor.dataset
        return f"{dataset.stimuli.keys[int(dataset.index.stimulus[picture.row])]}.png"
    return f"{segment_key(picture.row)}_{picture.sample}.png"


def _item(reconstructor: Reconstructor, picture: Picture, file: str) -> dict[str, object]:
    dataset, row = reconstructor.dataset, picture.row
    return {
        "segment": segment_key(row),
        "index": row,
        "stimulus": dataset.stimuli.keys[int(dataset.index.stimulus[row])],
        "label": int(dataset.index.label[row]),
        "subject": int(dataset.index.subject[row]),
        "sample": picture.sample,
        "file": file,
    }


def _write_png(path: Path, picture: np.ndarray) -> None:
    """A picture uint8 [3, S, S] as PNG. A file with the final name is complete: so a new run knows that it is done."""
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(picture.transpose(1, 2, 0)).save(temporary, format="PNG")
    temporary.replace(path)


def _put_in_place(part: Path, folder: Path, *, keep: set[str]) -> None:
    """Rename `part` to `folder`, in the place of what is there; drop what interrupted runs of this row left."""
    for path in part.iterdir():
        if path.name not in keep:
            path.unlink()
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        part.replace(folder)
        shutil.rmtree(old)
    else:
        part.replace(folder)
    for path in folder.parent.glob(f".{folder.name}-*.part"):
        shutil.rmtree(path)
