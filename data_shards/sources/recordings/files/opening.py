"""Opens recordings with MNE: raw or cut into epochs, with the sidecars of a BIDS folder; no sample is read yet."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import reason, require_file
from neuroimagen.data_shards.sources.recordings.files import edf_header
from neuroimagen.data_shards.sources.recordings.mne_notes import noted, unreadable
from neuroimagen.data_shards.sources.recordings.tables.text_table import read_columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingFile:
    """Where a recording is, and what its name says about it."""

    path: Path
    name: str
    """How notes and the index call it: its path below the folder that was given, or below the one all files share."""
    bids_root: Path | None = None
    """The BIDS folder whose sidecars describe the recording; None for a file that stands alone."""
    subject: str | None = None
    """Label of the BIDS entity `sub`, as are the next ones; None: the file's name does not say."""
    session: str | None = None
    run: str | None = None
    task: str | None = None


@dataclasses.dataclass(kw_only=True)
class Opened:
    """A recording whose header was read."""

    file: RecordingFile
    data: Any
    """mne.io.BaseRaw, or mne.BaseEpochs; not loaded."""
    is_epochs: bool
    stated_types: dict[str, str]
    """Types that channels.tsv states: they hold, whatever a label looks like."""
    stated_units: dict[str, str]
    """Units of channels as header and channels.tsv state them; "n/a": none or an unknown one."""
    edf: edf_header.EdfHeader | None = None

    @property
    def sfreq(self) -> float:
        return float(self.data.info["sfreq"])


def open_recording(file: RecordingFile, notes: list[str], *, exclude: tuple[str, ...] = ()) -> Opened:
    """Open a recording; MNE's warnings are appended to `notes`.

    `exclude`: channels of an EDF, BDF or GDF file that must not be read, because they have another sampling rate.
    Raises UserError for a file that MNE cannot read, with MNE's reason.
    """
    import mne

    path = file.path
    _require_regular_files(path)
    with noted(file.name, notes):
        try:
            more = {"exclude": exclude, "exclude_after_unique": True} if exclude else {}
            data = _open_data(path, more)
        except UserError:
            raise
        except Exception as error:  # readers of damaged files raise whatever the damage leads to
            raise unreadable(path, error) from None
        opened = Opened(
            file=file,
            data=data,
            is_epochs=isinstance(data, mne.BaseEpochs),
            stated_types={},
            stated_units={} if isinstance(data, mne.BaseEpochs) else dict(data._orig_units or {}),
            edf=edf_header.read_edf_header(path) if path.suffix.lower() in edf_header.ENDINGS else None,
        )
        if file.bids_root is not None and not opened.is_epochs:
            _read_sidecars(opened)
    return opened


def _require_regular_files(path: Path) -> None:
    """Raise UserError if the recording, or a file beside it, is a FIFO, a device or a socket.

    MNE opens more files than it is given: further parts, headers, markers, positions. It would wait there for ever.
    """
    beside = path.rglob("*") if path.is_dir() else [path, *path.parent.iterdir()]
    for each in sorted(set(beside)):
        if each.exists() and not each.is_dir():
            try:
                require_file(each)
            except OSError as error:
                raise UserError(f"cannot read the recording {path}: {each.name}: {reason(error)}.") from None


def _open_data(path: Path, more: dict[str, Any]) -> Any:
    """mne.io.BaseRaw, or mne.BaseEpochs of a file that holds epochs. Projectors of the file are not applied."""
    import mne

    if re.search(r"[-_]epo(-\d+)?\.fif(\.gz)?$", path.name.lower()):
        return mne.read_epochs(path, proj=False, preload=False)
    try:
        return mne.io.read_raw(path, **more)
    except TypeError as error:  # MNE's reader of raw EEGLAB files says so of files with epochs
        if path.suffix.lower() != ".set" or "trials" not in str(error):
            raise
        return mne.read_epochs_eeglab(path)


def sidecar(file: RecordingFile, suffix: str) -> Path | None:
    """The table of a BIDS recording, by BIDS' inheritance: "channels", "events", "electrodes"; None if it has none."""
    if file.bids_root is None:
        return None
    found = _bids_path(file).find_matching_sidecar(suffix=suffix, extension=".tsv", on_error="ignore")
    return None if found is None else Path(found)


def _bids_path(file: RecordingFile) -> Any:
    import mne_bids

    return mne_bids.get_bids_path_from_fname(file.path, check=False).update(root=file.bids_root, check=False)


def _read_sidecars(opened: Opened) -> None:
    """Take types, units, bad channels and positions from the sidecars, as mne-bids reads them."""
    import mne_bids

    file, raw = opened.file, opened.data
    channels, electrodes = sidecar(file, "channels"), sidecar(file, "electrodes")
    if channels is None and electrodes is None:
        return
    try:
        described = mne_bids.read_raw_bids(_bids_path(file))
    except Exception as error:  # mne-bids raises whatever a malformed table leads to
        raise unreadable(channels or file.path, error) from None
    known = set(raw.ch_names)
    if channels is not None:
        table = read_columns(channels)
        names = table.get("name", [])
        types = dict(zip(described.ch_names, described.get_channel_types(), strict=True))
        opened.stated_types = {name: types[name] for name in names if name in types and name in known}
        raw.set_channel_types(
            {name: kind for name, kind in opened.stated_types.items() if _can_be_set(kind)}, on_unit_change="ignore"
        )
        units = zip(names, table.get("units", []), strict=False)
        opened.stated_units |= {name: unit for name, unit in units if name in known and unit not in ("", "n/a")}
        raw.info["bads"] = [name for name in described.info["bads"] if name in known]
    if electrodes is not None and (montage := described.get_montage()) is not None:
        raw.set_montage(montage, on_missing="ignore")


def _can_be_set(kind: str) -> bool:
    """Whether MNE can give a channel this type; those of MEG come with their coils."""
    return kind not in ("mag", "grad", "ref_meg", "chpi")
