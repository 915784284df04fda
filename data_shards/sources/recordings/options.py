"""How recordings are opened, cut and joined: the options that `ingest mne` and `ingest bids` share."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.options import Container, interval

UNITS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}
"""Value of --unit → volts."""
CHANNEL_RULES = ("same", "by-name", "common")
CHANNEL_TYPES = (
    "eeg",
    "eog",
    "ecg",
    "emg",
    "misc",
    "stim",
    "resp",
    "bio",
    "gsr",
    "temperature",
    "mag",
    "grad",
    "ref_meg",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutOptions:
    """How a recording becomes segments."""

    images: Path
    tmin: float = 0.0
    """Start of a segment in seconds after its event."""
    tmax: float = 1.0
    """End of a segment (excluded) in seconds after its event."""
    band_hz: tuple[float, float] | None = None
    notch: tuple[float, ...] = ()
    """Frequencies that are filtered out, Hz."""
    resample: float | None = None
    """Sampling rate to resample to, Hz."""
    baseline: tuple[float, float] | None = None
    """Interval whose mean is subtracted, seconds after the event; it may lie outside the segment."""
    reference: tuple[str, ...] = ()
    """Channels whose mean is subtracted, or "average"; empty: as recorded."""
    picks: tuple[str, ...] = ("eeg",)
    """eeg, meg, mag, grad, or names of channels."""
    channel_types: tuple[str, ...] = ()
    """NAME=TYPE: what a channel is, whatever its file says."""
    channels: str = "same"
    """How the channels of several recordings must agree: one of CHANNEL_RULES."""
    bad_channels: tuple[str, ...] = ()
    """Channels to leave out, beside those that the recording itself marks bad."""
    interpolate_bads: bool = False
    """Interpolate bad channels from their neighbours instead of leaving them out."""
    montage: str | None = None
    """Where the electrodes are: a name that MNE knows."""
    unit: str | None = None
    """Unit of the numbers in files that state none, or a wrong one."""
    apply_projectors: bool = False
    split: str | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        numbers = {"--tmin": self.tmin, "--tmax": self.tmax}
        numbers |= {f"--notch (number {place})": hz for place, hz in enumerate(self.notch, start=1)}
        for option, values in (("--band", self.band_hz), ("--baseline", self.baseline)):
            numbers |= {f"{option} (number {place})": value for place, value in enumerate(values or (), start=1)}
        if wrong := [option for option, value in numbers.items() if not math.isfinite(value)]:
            raise UsageError(f"{wrong[0]} is {numbers[wrong[0]]}; it must be a finite number.")
        if not self.tmin < self.tmax:
            raise UsageError(f"--tmin {self.tmin} is not before --tmax {self.tmax}.")
        # MNE makes a band-stop filter where the low edge is above the high one.
        if self.band_hz is not None and not 0 <= self.band_hz[0] < self.band_hz[1]:
            raise UsageError(f"--band {self.band_hz[0]:g}:{self.band_hz[1]:g} must run from low to high, in Hz.")
        if self.baseline is not None and not self.baseline[0] <= self.baseline[1]:
            raise UsageError(f"--baseline {self.baseline[0]:g}:{self.baseline[1]:g} ends before it starts.")
        if self.resample is not None and not 0 < self.resample < math.inf:
            raise UsageError(
                f"--resample {self.resample:g} is not a sampling rate; it must be a positive number of Hz."
            )
        if any(hz <= 0 for hz in self.notch):
            raise UsageError(f"--notch {min(self.notch):g} is not a frequency; it must be a positive number of Hz.")
        if self.channels not in CHANNEL_RULES:
            raise UsageError(f"--channels {self.channels!r} is not one of {', '.join(CHANNEL_RULES)}.")
        if self.unit is not None and self.unit not in UNITS:
            raise UsageError(f"--unit {self.unit!r} is not one of {', '.join(UNITS)}.")
        self.stated_types()

    def stated_types(self) -> dict[str, str]:
        """Name of a channel → its type, from `channel_types`."""
        types = {}
        for text in self.channel_types:
            name, _, kind = text.rpartition("=")
            if not name or kind.lower() not in CHANNEL_TYPES:
                raise UsageError(
                    f"--channel-types {text!r} is not of the form NAME=TYPE with one of the types "
                    f"{', '.join(CHANNEL_TYPES)}."
                )
            types[name] = kind.lower()
        return types

    @property
    def is_filtered(self) -> bool:
        """Whether the EEG is changed along time, which asks for whole stretches of the recording."""
        return self.band_hz is not None or bool(self.notch) or self.resample is not None

    def steps(self) -> dict[str, object]:
        """What is done to the recordings, for dataset.json."""
        return {
            "band_hz": self.band_hz,
            "notch_hz": list(self.notch),
            "resample_hz": self.resample,
            "window_s": [self.tmin, self.tmax],
            "baseline_s": self.baseline,
            "reference": list(self.reference) or "as recorded",
            "left_out_channels": list(self.bad_channels),
            "bad_channels": "interpolated" if self.interpolate_bads else "left out",
            "montage": self.montage,
            "projectors": "applied" if self.apply_projectors else "not applied",
            "unit_of_the_files": self.unit or "as stated",
        }


def add_cut_options(parser: Container) -> None:
    """The options of CutOptions except --images and --split, each with the name of its field."""

    def seconds(name: str, default: float, what: str) -> None:
        text = f"{what} after the event, seconds (default: {default:g})"
        parser.add_argument(name, type=float, default=default, metavar="S", help=text)

    def names(name: str, text: str, *, default: Sequence[str] = (), metavar: str = "NAME") -> None:
        parser.add_argument(name, nargs="+", default=list(default), metavar=metavar, help=text)

    seconds("--tmin", CutOptions.tmin, "start")
    seconds("--tmax", CutOptions.tmax, "end")
    parser.add_argument(
        "--band", dest="band_hz", type=interval, metavar="A:B", help="band-pass filter, Hz (default: none)"
    )
    parser.add_argument(
        "--notch", type=float, nargs="+", default=[], metavar="HZ", help="filter these out (default: none)"
    )
    parser.add_argument("--resample", type=float, metavar="HZ", help="new sampling rate (default: as recorded)")
    parser.add_argument(
        "--baseline", type=interval, metavar="A:B", help="subtract the mean of these seconds (default: none)"
    )
    names("--reference", "average, or channels whose mean is subtracted (default: as recorded)")
    names("--picks", "eeg, meg, mag, grad, or channels by name (default: eeg)", default=CutOptions.picks)
    names("--channel-types", "what a channel is, whatever its file says: 'EXG1=eog'", metavar="NAME=TYPE")
    parser.add_argument(
        "--channels",
        choices=CHANNEL_RULES,
        default=CutOptions.channels,
        help="recordings must have the same channels in the same order (default), or are matched by name whatever the "
        "order and letter case; common: those that all of them have",
    )
    names("--bad-channels", "leave these out as well")
    parser.add_argument(
        "--interpolate-bads",
        action="store_true",
        help="interpolate bad channels; electrodes need positions (--montage)",
    )
    parser.add_argument("--montage", metavar="NAME", help="positions of the electrodes: standard_1005, biosemi64 …")
    parser.add_argument(
        "--unit", choices=tuple(UNITS), help="unit of the numbers, for files that state none or a wrong one"
    )
    parser.add_argument(
        "--apply-projectors", action="store_true", help="apply the projectors that the files carry (default: do not)"
    )
