"""Finds recordings in what the user gave: files, and folders in the layout of BIDS.

Who was recorded is read from a file's own name by mne-bids, never from the folders above it.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import MAX_RECORDING_BYTES
from neuroimagen.data_shards.sources.recordings.files.opening import RecordingFile

DATATYPES = ("eeg", "meg")
_ENDINGS = (".vhdr", ".edf", ".bdf", ".gdf", ".set", ".fif", ".fif.gz", ".cnt", ".mff", ".ds", ".con", ".sqd", ".kit")
_FOLDER_ENDINGS = (".ds", ".mff")
"""Recordings that are folders."""


def find_recordings(given: Sequence[Path], *, datatypes: Sequence[str] = DATATYPES) -> list[RecordingFile]:
    """Every recording of the files and folders, in order. Raises UserError for a path without one, or given twice."""
    files = [path for path in given if not _is_study(path)]
    shared = Path(os.path.commonpath([path.absolute().parent for path in files])) if files else Path()
    found: list[RecordingFile] = []
    for path in given:
        if _is_study(path):
            # The folder of one subject belongs to the study above it.
            is_subject = re.fullmatch(r"sub-[A-Za-z0-9]+", path.name) and not any(path.glob("sub-*/"))
            root = path.absolute().parent if is_subject else path
            inside = find_in_folder(root, datatypes=datatypes)
            found.extend(file for file in inside if root == path or path.absolute() in file.path.absolute().parents)
        elif path.exists():
            described = _described(path, path.absolute().relative_to(shared).as_posix())
            found.append(dataclasses.replace(described, bids_root=_root_above(path, described.subject)))
        else:
            raise UserError(f"there is no recording {path}.")
    first_at: dict[Path, Path] = {}
    for file in found:
        if first_at.setdefault(file.path.resolve(), file.path) is not file.path:
            raise UserError(f"recording {file.path} is given twice; its segments would be in the data set twice.")
    if len({file.name for file in found}) != len(found):  # two folders with files of the same names
        above = Path(os.path.commonpath([path.absolute() for path in given]))
        found = [
            dataclasses.replace(file, name=_short(file.path.absolute().relative_to(above).as_posix())) for file in found
        ]
    return found


def _short(name: str) -> str:
    """A recording's name as the index can hold it: as it is, or the end of a longer one after digits of its SHA-256."""
    if len(name.encode("utf-8", "surrogatepass")) <= MAX_RECORDING_BYTES and name.isprintable():
        return name
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{digits}_{re.sub(r'[^A-Za-z0-9._/-]+', '_', name)[-(MAX_RECORDING_BYTES - 11) :]}"


def find_in_folder(root: Path, *, datatypes: Sequence[str] = DATATYPES) -> list[RecordingFile]:
    """The recordings of a BIDS folder, raw or derivative: sub-*/…/*_eeg.* or *_meg.*, in the order of their names.

    Names that begin with a dot (macOS leaves such copies) and the folder's own derivatives are passed over.
    """
    found = [_described(path, path.relative_to(root).as_posix(), root) for path in _walk(root)]
    found = [file for file in found if file.subject is not None and _datatype(file.path) in (*datatypes, "epo")]
    if not found:
        kinds = " or ".join(f"*_{kind}.*" for kind in datatypes)
        raise UserError(
            f"{root} holds no file sub-*/…/{kinds}, with one of the endings {', '.join(_ENDINGS)}. A BIDS folder has "
            "one folder sub-LABEL for each subject; other files are given one by one."
        )
    stems: dict[tuple[Path, str], Path] = {}
    for file in found:
        place = (file.path.parent, _stem(file.path))
        if (other := stems.setdefault(place, file.path)) is not file.path:
            raise UserError(
                f"{other} and {file.path.name} are one recording in two formats; its segments would be in the data set "
                "twice. Remove one, or give the files one by one."
            )
    return found


def _walk(root: Path) -> Iterator[Path]:
    """Every recording below the subjects' folders, by name; those that are folders are not entered."""
    for folder, folders, names in os.walk(root, followlinks=True):
        is_root = Path(folder) == root
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if _ending(name) not in _FOLDER_ENDINGS]
        if is_root:
            folders[:] = [name for name in folders if name.startswith("sub-")]
            continue
        recordings = [name for name in names if not name.startswith(".") and _ending(name)]
        recordings += [name for name in shown if _ending(name) in _FOLDER_ENDINGS]
        for name in sorted(recordings):
            if "_split-" not in name or "_split-01" in name or "_split-1_" in name:  # MNE reads the other parts itself
                yield Path(folder) / name


def _described(path: Path, name: str, root: Path | None = None) -> RecordingFile:
    """A recording with the entities of its file's name."""
    import mne_bids

    entities = mne_bids.get_entities_from_fname(path.name, on_error="ignore")
    return RecordingFile(
        path=path,
        name=_short(name),
        bids_root=root,
        subject=entities["subject"],
        session=entities["session"],
        run=entities["run"],
        task=entities["task"],
    )


def _root_above(path: Path, subject: str | None) -> Path | None:
    """The BIDS folder of a file that was given alone: above its folders eeg or meg, ses-…, and sub-… of its subject."""
    above = path.absolute().parent
    if above.name in DATATYPES:
        above = above.parent
    if above.name.startswith("ses-"):
        above = above.parent
    return above.parent if subject is not None and above.name == f"sub-{subject}" else None


def _is_study(path: Path) -> bool:
    return path.is_dir() and _ending(path.name) not in _FOLDER_ENDINGS


def _ending(name: str) -> str:
    """The ending by which a file is a recording, in lower case, or ""."""
    return next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_ending(path.name))]


def _datatype(path: Path) -> str:
    """What the last part of a BIDS name says: "eeg" of sub-01_task-see_eeg.edf."""
    return _stem(path).replace("-", "_").rpartition("_")[2].lower()
