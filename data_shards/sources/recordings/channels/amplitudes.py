"""Looks at some segments of a recording before all are cut: does the EEG have a size that EEG can have?"""

from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection

NUM_LOOKED_AT = 8
# Within a second, EEG varies by 1 to 100 µV; blinks and movement bring single channels to some thousand.
_LARGEST_UV, _LARGE_UV = 5_000.0, 500.0
_SMALL_UV, _SMALLEST_UV = 0.05, 0.001


def check_amplitudes(eeg: np.ndarray, selection: Selection, where: Any, name: str, notes: list[str]) -> None:
    """Refuse or note amplitudes that no EEG has, and note channels that never vary.

    eeg: float [n, C, T] in the stored units, some segments of one recording. Raises UserError with the remedy.
    """
    names = np.array(selection.names)
    spread = np.median(eeg.std(axis=-1), axis=0)  # [C]
    flat = (eeg == eeg[:, :, :1]).all(axis=(0, 2))
    if flat.any():
        notes.append(
            f"{name}: {int(flat.sum())} of {len(names)} channels never vary in the {len(eeg)} segments looked at: "
            f"{_listed(names[flat])}: kept; --bad-channels leaves them out"
        )
    is_eeg = np.array([kind == "eeg" for kind in selection.kinds]) & (spread > 0)
    if not is_eeg.any():
        return
    usual = float(np.median(spread[is_eeg]))
    if usual > _LARGEST_UV or usual < _SMALLEST_UV:
        says = "volts" if usual > _LARGEST_UV else "another unit than volts"
        raise UserError(
            f"{where}: the EEG has a standard deviation of {usual:.3g} µV within a segment, which no EEG has. MNE took "
            f"its numbers for {says} because the file states no unit that it knows, or a wrong one. Say the unit of "
            "the "
            f"numbers with --unit {'uV' if usual > 1e5 else 'mV' if usual > _LARGEST_UV else 'V'}, or correct the file."
        )
    if not _SMALL_UV <= usual <= _LARGE_UV:
        notes.append(
            f"{name}: the EEG has a standard deviation of {usual:.3g} µV within a segment, an amplitude that EEG "
            "seldom "
            "has; check the unit (--unit) and the electrodes"
        )
    odd = is_eeg & ((spread > 50 * usual) | (spread < usual / 1000))
    if odd.any() and is_eeg.sum() > 2:
        shown = ", ".join(f"{channel} ({size:.3g} µV)" for channel, size in zip(names[odd], spread[odd], strict=True))
        notes.append(
            f"{name}: {int(odd.sum())} channels have another amplitude than the rest ({usual:.3g} µV): {shown}; they "
            "may "
            "be no EEG, or another unit: --channel-types, --bad-channels"
        )


def _listed(names: np.ndarray) -> str:
    return ", ".join(names[:10].tolist()) + (" …" if len(names) > 10 else "")
