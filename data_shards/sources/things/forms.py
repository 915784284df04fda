"""Which form of THINGS-EEG2's files a folder holds."""

import re
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.preprocessed import DictionaryForm, NeuroBridgeForm, WhitenedForm
from neuroimagen.data_shards.sources.things.raw import RawForm
from neuroimagen.data_shards.sources.things.trials import Form

_TELLTALES: dict[type[Form], str] = {
    DictionaryForm: "preprocessed_eeg_*.npy",
    WhitenedForm: "t*.pt",
    NeuroBridgeForm: "t*.npy",
    RawForm: "ses-*/raw_eeg_*.npy",
}
"""Files of a subject's folder that show the form."""


def find_subjects(root: Path) -> list[int]:
    """The numbers of the folders sub-01, sub-02 … Raises UserError if there are none."""
    found = sorted(
        int(match[1])
        for path in (root.iterdir() if root.is_dir() else ())
        if path.is_dir() and (match := re.fullmatch(r"sub-(\d{2,})", path.name))
    )
    if not found:
        hint = ""
        if re.fullmatch(r"sub-\d{2,}", root.name):
            hint = f" Give the folder above it: {root.parent}"
        elif root.is_dir() and (below := sorted(path.parent for path in root.glob("*/sub-[0-9]*"))):
            hint = f" Did you mean {below[0]}?"
        raise UserError(f"{root} holds no sub-01, sub-02 … folders.{hint}")
    return found


def find_form(root: Path, subjects: list[int], *, whitening: str | None) -> Form:
    """The form of the subjects' files. Raises UserError if there is none, or if there are several.

    whitening: session or none, for raw recordings; None: session. A preprocessed form refuses it.
    """
    found = {
        form: subject
        for subject in reversed(subjects)
        for form, pattern in _TELLTALES.items()
        if any((root / f"sub-{subject:02d}").glob(pattern))
    }
    if len(found) > 1:
        shown = ", ".join(f"{form.NAME} (sub-{subject:02d})" for form, subject in found.items())
        raise UserError(f"{root} holds files of several forms: {shown}. Give each form a folder of its own.")
    if not found:
        patterns = ", ".join(_TELLTALES.values())
        raise UserError(f"{root}/sub-{subjects[0]:02d} holds no files of a known form: {patterns}.")
    kind = next(iter(found))
    if kind is RawForm:
        return RawForm(root, whitening=whitening or "session")
    if whitening is not None:
        raise UserError(f"--whitening is for raw recordings; {root} holds preprocessed EEG ({kind.NAME}).")
    return kind(root)
