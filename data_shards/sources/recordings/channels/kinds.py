"""What a channel records, told by its label or unit where its file calls every channel EEG, as EDF and BDF do."""

import re
from types import MappingProxyType

_KINDS = MappingProxyType(
    {
        "eog": r".*eog|exg\s*\d|(left|right|l|r)\s*eye|(loc|roc)\b",
        "ecg": r".*(ecg|ekg)",
        "emg": r".*emg|chin\b",
        "gsr": r"gsr|eda\b|scr\b|scl\b|skin",
        "resp": r"resp|airflow|nasal|thor|abdo|chest|snor",
        "temperature": r"temp(?!or)",
        "bio": r"plet|ppg|sp?o2|sao2|pulse|erg\s*\d|bvp",
        "misc": r"aux|photo|diode|light|audio|mic(rophone)?\d*$|sound|acc(el)?\b|acc[_ -]?[xyz]|gyro|pupil|gaze|eye"
        r"|button|joystick|battery|counter",
        "stim": r"status$|trig|stim|sti\s?\d|marker|event|digital",
    }
)
"""MNE's type → how the labels of such channels begin. No electrode of the 10-5 system matches one of them."""
_COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _KINDS.items()}


def kind_by_label(label: str) -> str | None:
    """MNE's type of a channel that its label says to be no EEG; None for any other label."""
    name = re.sub(r"^eeg\s+", "", label.strip(), flags=re.IGNORECASE)
    return next((kind for kind, pattern in _COMPILED.items() if pattern.match(name)), None)
