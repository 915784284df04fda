"""Writes a condition's images into a run: reconstructions/<condition>/, whole or not at all, continued after an
interruption.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import read_text, reason
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS
from neuroimagen.trainer.reconstruction.manifest import MANIFEST_FILE, changed_settings, load_manifest
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor

_BATCH_SIZE_FILE = "batch_size.txt"
"""In the unfinished folder of a condition, where the batch size was not configured."""


@dataclass(frozen=True, kw_only=True)
class WrittenCondition:
    """What `write_condition` did."""

    name: str
    folder: Path
    num_images: int
    """Entries of the manifest; several may share a file where nothing depends on the segment."""
    made: bool
    """False: the images were there already, made with the same settings."""


def write_condition(
    reconstructor: Reconstructor,
    name: str,
    *,
    ranks: ProcessShare | None = None,
    overwrite: bool = False,
    into: Path | None = None,
) -> WrittenCondition:
    """Draw the images of a condition and write them. All ranks call it, share the batches, and return when it is done.

    `into`: the folder in which the condition gets one of its name; None: the run's reconstructions/.

    Raises UserError when the condition is there with other settings and `overwrite` is not set, when the disk is full,
    and when a batch does not fit into a GPU's memory.
    """
    ranks = ranks or ProcessShare()
    folder = (into or reconstructor.run / "reconstructions") / name
    settings = {"condition": name, **reconstructor.settings(name)}
    items = reconstructor.segment_samples(name)
    if _is_made(folder, settings, overwrite=overwrite):
        return WrittenCondition(name=name, folder=folder, num_images=len(items), made=False)

    unfinished = _unfinished_folder(folder, settings)
    files = [_file_name(reconstructor, name, item) for item in items]
    first_of_file: dict[str, SegmentSample] = {}
    for file, item in zip(files, items, strict=True):
        first_of_file.setdefault(file, item)
    unique = list(first_of_file)
    size = reconstructor.config.batch_size
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        if size is None and ranks.rank == 0:
            _choose_batch_size(reconstructor, name, unfinished)
        ranks.wait()  # every rank has seen that the condition is not finished yet
        if size is None:
            size = _read_batch_size(unfinished / _BATCH_SIZE_FILE)
        batches = [unique[first : first + size] for first in range(0, len(unique), size)]
        _draw_batches(reconstructor, name, unfinished, first_of_file, batches[ranks.rank :: ranks.world_size])
        ranks.wait()
        if ranks.rank == 0:
            entries = [_entry(reconstructor, item, file) for item, file in zip(items, files, strict=True)]
            with atomic_path(unfinished / MANIFEST_FILE) as path:
                path.write_text(json.dumps({**settings, "items": entries}, indent=1) + "\n", encoding="utf-8")
            _put_in_place(unfinished, folder, keep={MANIFEST_FILE, *unique})
        ranks.wait()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{size or 1} images at once do not fit into the memory of {ranks.device}. Lower "
            "reconstruct.batch_size, or set reconstruct.dtype to bfloat16. What is drawn already is kept."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}. Free space and run the same command again: "
            "it continues where it stopped."
        ) from error
    return WrittenCondition(name=name, folder=folder, num_images=len(items), made=True)


def _unfinished_folder(folder: Path, settings: Mapping[str, object]) -> Path:
    """Where a condition with these settings is drawn: a folder of its own, so that settings never mix in one."""
    # Without what is for people to read.
    deciding = {key: value for key, value in settings.items() if key not in ("model", "made_of")}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]
    return folder.with_name(f".{folder.name}-{digest}.part")


def _choose_batch_size(reconstructor: Reconstructor, name: str, unfinished: Path) -> None:
    """Record the batch size: a command that continues the condition draws batches of the same composition, whatever
    memory is free then.
    """
    if not (unfinished / _BATCH_SIZE_FILE).is_file():
        with atomic_path(unfinished / _BATCH_SIZE_FILE) as path:
            path.write_text(f"{reconstructor.batch_size(name)}\n", encoding="utf-8")


def _draw_batches(
    reconstructor: Reconstructor,
    name: str,
    unfinished: Path,
    first_of_file: Mapping[str, SegmentSample],
    batches: list[list[str]],
) -> None:
    """Draw and write batches of files. Threads write a batch while the next is drawn: compressing an image of 512 px
    takes tens of milliseconds, and a fast GPU needs not much longer to draw one.
    """
    writing: list[Future[None]] = []
    with ThreadPoolExecutor() as threads:
        for batch in track(batches, desc=f"draw {name}", unit="batch"):
            # Whole batches are drawn again: their composition, and so every rounding, is that of a run without an
            # interruption.
            if all((unfinished / file).is_file() for file in batch):
                continue
            items = [first_of_file[file] for file in batch]
            drawn = reconstructor.draw_batch(name, items, usual_size=len(batches[0]))
            for written in writing:
                written.result()
            paths = [unfinished / file for file in batch]
            writing = [threads.submit(_write_png, path, image) for path, image in zip(paths, drawn, strict=True)]
        for written in writing:
            written.result()


def _is_made(folder: Path, settings: Mapping[str, object], *, overwrite: bool) -> bool:
    """Whether the condition is there with these settings; UserError if it is there with others and may not be replaced.

    `settings` are the manifest's keys beside its items.
    """
    if not folder.exists():
        return False
    try:
        made = load_manifest(folder / MANIFEST_FILE)
        del made["items"]
    except (OSError, ValueError, KeyError):
        made = {}
    changed = changed_settings(made, settings)
    if not changed:
        return True
    if overwrite:
        return False
    raise UserError(
        f"{folder} was made with other settings: {'; '.join(changed)}. Give --overwrite to make it again, or choose "
        "another --run."
    )


def _file_name(reconstructor: Reconstructor, name: str, item: SegmentSample) -> str:
    """The image's file in the folder of its condition; images that cannot differ share a file."""
    condition = IMAGE_CONDITIONS[name]
    if not condition.is_denoised and condition.start == "mean stimulus":
        return "mean.png"
    if not condition.is_denoised and condition.start == "stimulus":
        dataset = reconstructor.dataset
        return f"{dataset.stimuli.keys[int(dataset.index.stimulus[item.row])]}.png"
    return f"{segment_key(item.row)}_{item.sample}.png"


def _entry(reconstructor: Reconstructor, item: SegmentSample, file: str) -> dict[str, object]:
    """An entry of the manifest."""
    dataset, row = reconstructor.dataset, item.row
    return {
        "segment": segment_key(row),
        "index": row,
        "stimulus": dataset.stimuli.keys[int(dataset.index.stimulus[row])],
        "label": int(dataset.index.label[row]),
        "subject": int(dataset.index.subject[row]),
        "sample": item.sample,
        "file": file,
    }


def _read_batch_size(path: Path) -> int:
    """The images at once that were chosen when the condition was begun. Raises UserError if the file is damaged."""
    try:
        size = int(read_text(path, limit=100))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}. Remove {path.parent}: it is drawn again.") from None
    if size < 1:
        raise UserError(f"{path} says {size} images at once. Remove {path.parent}: it is drawn again.")
    return size


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write an image uint8 [3, S, S] as PNG. A file with the final name is complete, so a new run need not draw it."""
    temporary = path.with_name(f".{path.name}.part")
    Image.fromarray(image.transpose(1, 2, 0)).save(temporary, format="PNG")
    temporary.replace(path)


def _put_in_place(unfinished: Path, folder: Path, *, keep: set[str]) -> None:
    """Rename `unfinished` to `folder`, in the place of what is there; drop what interrupted runs of the condition left.

    keep: names of the files that belong to the finished condition.
    """
    for path in unfinished.iterdir():
        if path.name not in keep:
            path.unlink()
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        unfinished.replace(folder)
        shutil.rmtree(old)
    else:
        unfinished.replace(folder)
    for path in folder.parent.glob(f".{folder.name}-*.part"):
        shutil.rmtree(path)
