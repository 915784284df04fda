"""Who was recorded: the label of an option, a BIDS entity or a table, else what the file itself says."""

from collections.abc import Sequence

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile

_ANONYMOUS = ("", "x", "0", "-1", "unknown", "anonymous", "n/a", "xxx", "mne_anonymize")


def own_subject(opened: Opened) -> str | None:
    """What a file itself says of who was recorded: its patient id. None where it says nothing or "X"."""
    info = opened.data.info["subject_info"] or {}
    text = str(info.get("his_id") or "").strip()
    return None if text.lower() in _ANONYMOUS else text


def subject_labels(
    files: Sequence[RecordingFile], own: Sequence[str | None], stated: Sequence[str], notes: list[str]
) -> list[str]:
    """The label of each recording's subject.

    `own`: of each file, `own_subject`, or what a table says. `stated`: of --subject, one for all or one for each
    recording; it goes before everything else. Without any label a recording counts as a subject of its own, with a
    note. Two BIDS folders may use one label for two people: the folder's name is then part of the label.
    """
    if stated:
        if len(stated) not in (1, len(files)):
            raise UsageError(
                f"--subject has {len(stated)} labels for {len(files)} recordings; give one, or one for each recording."
            )
        return list(stated) * (len(files) if len(stated) == 1 else 1)
    roots = list(dict.fromkeys(str(file.bids_root) for file in files if file.bids_root is not None))
    labels: list[str] = []
    unsaid: list[str] = []
    for file, said in zip(files, own, strict=True):
        if file.subject is not None:
            label = file.subject
            if len(roots) > 1 and file.bids_root is not None:
                label = f"{roots.index(str(file.bids_root)) + 1}-{label}"
        elif said is not None:
            label = said
        else:
            label = file.name.partition(".")[0]
            unsaid.append(file.name)
        labels.append(label)
    if len(roots) > 1:
        shown = ", ".join(f"{place} is {root}" for place, root in enumerate(roots, start=1))
        notes.append(
            f"{len(roots)} BIDS folders were given, and one label may be two people: labels of subjects begin with "
            "the folder's "
            f"number ({shown})"
        )
    if len(files) > 1 and unsaid:
        shown = ", ".join(unsaid[:10]) + (" …" if len(unsaid) > 10 else "")
        notes.append(
            f"nothing says which subject {len(unsaid)} of {len(files)} recordings are of, so each counts as a "
            "subject of "
            f"its own ({shown}). Say it with --subject (one label, or one for each recording), or with a column "
            "subject "
            "in a table of trials"
        )
    return ["1"] if len(files) == 1 and unsaid else labels
