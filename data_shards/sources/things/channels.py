"""Which channels of a file are taken: those that hold brain activity, or those that the user names."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError

_USUAL_NAMES = (
    "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz "
    "C2 C4 C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"
)
USUAL_ORDER = tuple(_USUAL_NAMES.split())
"""Order of the 63 channels in the preprocessed files of THINGS-EEG2."""
OCCIPITO_PARIETAL = "occipito-parietal"
_NOT_BRAIN = re.compile(r"(sti(m|\s?\d+)?|status|trig(ger)?|.*(eog|ecg|ekg|emg).*|gsr|resp|temp)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenChannels:
    """The channels that are taken."""

    positions: np.ndarray
    """int64, in the file's channels, in its order."""
    names: tuple[str, ...]
    notes: tuple[str, ...]
    """What was left out, one sentence each."""


def choose_channels(names: Sequence[str], wanted: Sequence[str] | None, *, where: str) -> ChosenChannels:
    """Take channels by name, in the order of the file; letter case does not matter.

    wanted: None takes all that hold brain activity; "occipito-parietal" those whose names begin with O or P. where:
    names the file in messages. Raises UserError for a name that the file does not have or has twice.
    """
    folded = [name.casefold() for name in names]
    if twice := sorted({name for name in names if folded.count(name.casefold()) > 1}):
        raise UserError(f"{where}: channel {twice[0]!r} comes twice; channels are matched by their names.")
    other = [name for name in names if _NOT_BRAIN.fullmatch(name)]
    notes = [f"channels {', '.join(other)} are left out: by their names they record no brain activity"] if other else []
    brain = [name for name in names if name not in other]
    if wanted is None:
        taken = brain
    elif list(wanted) == [OCCIPITO_PARIETAL]:
        taken = [name for name in brain if name[:1].upper() in ("O", "P")]
        notes.append(f"--channels {OCCIPITO_PARIETAL}: {len(taken)} of {len(brain)} channels: {', '.join(taken)}")
    else:
        if OCCIPITO_PARIETAL in wanted:
            raise UsageError(f"--channels takes {OCCIPITO_PARIETAL} or names, not both.")
        if unknown := [name for name in wanted if name.casefold() not in folded]:
            raise UserError(f"{where} has no channel {unknown[0]!r}; it has {', '.join(names)}.")
        asked = {name.casefold() for name in wanted}
        taken = [name for name in names if name.casefold() in asked]
        notes = [f"channels {', '.join(name for name in taken if name in other)} are no EEG by their names, but taken"]
        notes = notes if any(name in other for name in taken) else []
    if not taken:
        raise UserError(f"{where}: no channel is left of {', '.join(names)}.")
    positions = np.array([names.index(name) for name in taken], dtype=np.int64)
    return ChosenChannels(positions=positions, names=tuple(taken), notes=tuple(notes))


def usual_order(names: Sequence[str]) -> list[int]:
    """Positions of the channels in the order of the preprocessed files; as they are where one of them is unknown."""
    if all(name in USUAL_ORDER for name in names):
        return sorted(range(len(names)), key=lambda place: USUAL_ORDER.index(names[place]))
    return list(range(len(names)))
