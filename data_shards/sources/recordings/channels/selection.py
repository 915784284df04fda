"""Which channels of a recording are stored, in which unit, and why the others are not."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.kinds import kind_by_label
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile, open_recording
from neuroimagen.data_shards.sources.recordings.mne_notes import noted
from neuroimagen.data_shards.sources.recordings.options import UNITS, CutOptions

_KINDS_OF_PICKS = {"eeg": ("eeg",), "meg": ("mag", "grad"), "mag": ("mag",), "grad": ("grad",)}
_SCALED_BY_MNE = ("mV", "µV", "uV", "µV", "μV", "\x83\xcaV")
"""Units of EDF that MNE converts to volts; it takes the numbers of all others for volts."""
STORED_UNITS = {"eeg": (1e6, "microvolt"), "mag": (1e15, "femtotesla"), "grad": (1e13, "femtotesla per centimetre")}
"""Type → factor from MNE's SI unit to the stored one, and its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The channels of one recording that become channels of the segments."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """MNE's type of each channel."""
    factors: tuple[float, ...]
    """What MNE's values are multiplied by to be in the unit in which they are stored."""
    left_out: dict[str, str]
    """Channels that are not stored → why."""
    bads: tuple[str, ...]
    """Channels that are marked bad, by the recording or by --bad-channels."""


def open_selected(file: RecordingFile, options: CutOptions, notes: list[str]) -> tuple[Opened, Selection]:
    """Open a recording and choose its channels; what is left out and why is appended to `notes`."""
    opened = open_recording(file, notes)
    with noted(file.name, notes):
        _set_montage(opened, options)
        stated = _set_types(opened, options)
        selection = _select(opened, options, stated)
    # MNE brings every signal of an EDF file to the highest rate among those it reads.
    if exclude := _other_rates(opened, selection):
        opened = open_recording(file, notes, exclude=exclude)
        with noted(file.name, notes):
            _set_montage(opened, options)
            _set_types(opened, options, without=exclude)
    opened.data.info["bads"] = list(selection.bads)
    if reasons := _by_reason(selection.left_out):
        notes.append(f"{file.name}: {len(selection.left_out)} channels left out: {reasons}")
    if options.unit is not None and all(factor == STORED_UNITS["eeg"][0] for factor in selection.factors):
        notes.append(f"{file.name}: --unit {options.unit} changes nothing: MNE took the numbers for that already")
    _note_projectors(opened, options, notes)
    return opened, selection


def _set_types(opened: Opened, options: CutOptions, *, without: Sequence[str] = ()) -> dict[str, str]:
    """Give channels the types of --channel-types. Returns those and what channels.tsv states."""
    asked = {name: kind for name, kind in options.stated_types().items() if name not in without}
    known = set(opened.data.ch_names)
    if unknown := [name for name in asked if name not in known]:
        raise UserError(f"--channel-types: {opened.file.name} has no channel {unknown[0]!r}; {_has(opened.data)}.")
    opened.data.set_channel_types(
        {name: kind for name, kind in asked.items() if kind not in ("mag", "grad", "ref_meg")}, on_unit_change="ignore"
    )
    return {**opened.stated_types, **asked}


def _set_montage(opened: Opened, options: CutOptions) -> None:
    if options.montage is not None:
        try:
            opened.data.set_montage(options.montage, match_case=False, match_alias=True, on_missing="warn")
        except (ValueError, OSError) as error:
            raise UserError(f"--montage {options.montage}: {str(error).splitlines()[0]}") from None


def _select(opened: Opened, options: CutOptions, stated: dict[str, str]) -> Selection:
    raw = opened.data
    kind_of = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    bads = _bads(opened, options)
    units = _header_units(opened)
    left_out: dict[str, str] = {}
    by_name = [pick for pick in options.picks if pick.lower() not in _KINDS_OF_PICKS]
    if by_name:
        wanted = _named(raw, list(options.picks), opened.file.name, kind_of)
    else:
        kinds = {kind for pick in options.picks for kind in _KINDS_OF_PICKS[pick.lower()]}
        wanted = []
        for name, kind in kind_of.items():
            if kind not in kinds:
                if kind != "stim":
                    left_out[name] = f"{kind}, as the file says" if name not in stated else f"{kind}, as stated"
            elif kind == "eeg" and name not in stated and (label := kind_by_label(name)):
                left_out[name] = f"{label}, by its name; --channel-types {name!r}=eeg keeps it"
            elif kind == "eeg" and name not in stated and options.unit is None and _is_no_voltage(units.get(name, "")):
                left_out[name] = f"its unit {units[name]!r} is no voltage; --channel-types {name!r}=eeg keeps it"
            else:
                wanted.append(name)
    kept = []
    for name in wanted:
        if name in bads and not options.interpolate_bads:
            left_out[name] = "marked bad" if name not in options.bad_channels else "--bad-channels"
        else:
            kept.append(name)
    kept = _of_one_rate(opened, kept, left_out)
    if len(options.reference) == 1 and options.reference[0] in kept:
        kept.remove(options.reference[0])
        left_out[options.reference[0]] = "the reference, zero by definition"
    if not kept:
        what = " or ".join(options.picks).upper()
        why = f": {_by_reason(left_out)}" if left_out else f"; {_has(raw)}"
        raise UserError(
            f"{opened.file.path} has no {what} channels that are not marked bad{why}. Say what a channel is with "
            "--channel-types NAME=TYPE, or choose with --picks."
        )
    kinds_kept = tuple(kind_of[name] for name in kept)
    factors = tuple(_factor(opened, options, units, name, kind_of[name]) for name in kept)
    return Selection(
        names=tuple(kept),
        kinds=kinds_kept,
        factors=factors,
        left_out=left_out,
        bads=tuple(name for name in bads if name in wanted),
    )


def _bads(opened: Opened, options: CutOptions) -> list[str]:
    """Channels marked bad; those of --bad-channels are added to the recording's."""
    known = set(opened.data.ch_names)
    if unknown := [name for name in options.bad_channels if name not in known]:
        raise UserError(
            f"{opened.file.path} has no channel {unknown[0]!r} to leave out; it has {list(opened.data.ch_names)}."
        )
    return sorted({*opened.data.info["bads"], *options.bad_channels})


def _named(raw: Any, picks: list[str], where: str, kind_of: dict[str, str]) -> list[str]:
    """The channels that --picks names, letter case aside, in the recording's order; a type stands for all of it."""
    by_key = {name.strip().casefold(): name for name in raw.ch_names}
    wanted: set[str] = set()
    for pick in picks:
        if pick.lower() in _KINDS_OF_PICKS:
            wanted |= {name for name, kind in kind_of.items() if kind in _KINDS_OF_PICKS[pick.lower()]}
        elif pick.strip().casefold() in by_key:
            wanted.add(by_key[pick.strip().casefold()])
        else:
            raise UserError(f"--picks: {where} has no channel {pick!r}; {_has(raw)}.")
    if odd := sorted(name for name in wanted if kind_of[name] not in STORED_UNITS):
        raise UserError(
            f"--picks: {where}: channel {odd[0]!r} is of type {kind_of[odd[0]]}, and only EEG and MEG are stored. If "
            "it "
            f"is EEG, give --channel-types {odd[0]!r}=eeg."
        )
    return [name for name in raw.ch_names if name in wanted]


def _header_units(opened: Opened) -> dict[str, str]:
    """Units as the header writes them, by channel; those of channels.tsv where the header has none."""
    units = dict(opened.stated_units)
    if opened.edf is not None:
        signals = opened.edf.signals
        if len(signals) == len(opened.data.ch_names):
            for place, name in zip(signals, opened.data.ch_names, strict=True):
                if opened.edf.units[place] not in ("", "n/a"):
                    units[name] = opened.edf.units[place]
    return units


def _is_no_voltage(unit: str) -> bool:
    """Whether a unit is certainly none of volts: 'degC', '%', 'nOhm'; '' and '.V' are not certain."""
    return bool(unit) and unit.lower() not in ("n/a", "na", "none", "unknown", "-", "?") and "v" not in unit.lower()


def _factor(opened: Opened, options: CutOptions, units: dict[str, str], name: str, kind: str) -> float:
    """From what MNE reads to the stored unit; --unit goes before what MNE took the numbers for."""
    factor = STORED_UNITS[kind][0]
    if kind != "eeg":
        return factor
    taken_for = _unit_that_mne_takes(opened, units.get(name, ""))
    unit = options.unit
    if unit is None and opened.edf is not None and taken_for == "V":
        unit = _plain(opened.stated_units.get(name, ""))  # of channels.tsv, where the header has none
    return factor if unit not in UNITS else factor * UNITS[unit] / UNITS[taken_for]


def _unit_that_mne_takes(opened: Opened, unit: str) -> str:
    """The unit for which MNE takes a channel's numbers."""
    if opened.edf is not None:
        return _plain(unit) if unit in _SCALED_BY_MNE else "V"
    ending = opened.file.path.suffix.lower()
    if ending == ".set":
        return "uV"
    if ending == ".vhdr":
        return _plain(unit) if _plain(unit) in UNITS else "uV"
    return "V"


def _plain(unit: str) -> str:
    """A unit of voltage as a key of UNITS: "uV" for each way to write micro."""
    return re.sub("^(µ|μ|\x83\xca)", "u", unit)


def _of_one_rate(opened: Opened, names: list[str], left_out: dict[str, str]) -> list[str]:
    """Of an EDF file's chosen channels those at the rate that most of them have."""
    rates = _rates(opened)
    counts = Counter(rates[name] for name in names if name in rates)
    if len(counts) < 2:
        return names
    usual = counts.most_common(1)[0][0]
    for name in names:
        if rates[name] != usual:
            left_out[name] = f"sampled at {rates[name]:g} Hz, most others at {usual:g} Hz"
    return [name for name in names if rates[name] == usual]


def _rates(opened: Opened) -> dict[str, float]:
    if opened.edf is None or len(opened.edf.signals) != len(opened.data.ch_names):
        return {}
    return dict(zip(opened.data.ch_names, opened.edf.rates_hz(), strict=True))


def _other_rates(opened: Opened, selection: Selection) -> tuple[str, ...]:
    """Channels that would change the sampling rate of the chosen ones, and are none of them."""
    rates = _rates(opened)
    highest = max((rates[name] for name in selection.names if name in rates), default=0.0)
    return tuple(name for name, rate in rates.items() if rate > highest > 0)


def _note_projectors(opened: Opened, options: CutOptions, notes: list[str]) -> None:
    waiting = [str(projector["desc"]) for projector in opened.data.info["projs"] if not projector["active"]]
    if waiting and not options.apply_projectors:
        notes.append(
            f"{opened.file.name}: {len(waiting)} projectors that the file carries are not applied "
            f"({', '.join(waiting)}); --apply-projectors applies them"
        )


def _by_reason(left_out: dict[str, str]) -> str:
    """The channels left out, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        short = reason.partition("; ")[0]
        reasons.setdefault(short, []).append(name)
    told = "; ".join(f"{', '.join(names)} ({short})" for short, names in reasons.items())
    remedies = any("; " in reason for reason in left_out.values())
    return told + (" (--channel-types NAME=eeg keeps a channel as EEG)" if remedies else "")


def _has(raw: Any) -> str:
    return f"it has {', '.join(map(str, raw.ch_names))}"
