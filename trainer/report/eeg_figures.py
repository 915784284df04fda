"""The average segment of a data set: butterfly plot and scalp maps at the peaks of global field power."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.report import plots


@dataclass(frozen=True, kw_only=True)
class EegFigures:
    """Butterfly plot and scalp maps of the average segment, as SVG."""

    butterfly: str
    scalp_maps: str | None
    """None where electrode positions are unknown."""
    note: str
    """What they show, or why there are no scalp maps."""


def eeg_unit(preprocessing: Mapping[str, Any]) -> str:
    """The unit of the stored EEG, as far as the data set states it."""
    if preprocessing.get("standardise"):
        return "standard deviations"
    return "µV" if preprocessing.get("unit") == "microvolt" else "data set's units"


def eeg_figures(
    evoked: Floats,
    *,
    channel_names: Sequence[str] | None,
    montage: str | None,
    sfreq: float,
    start_ms: float,
    num_segments: int,
    unit: str = "data set's units",
) -> EegFigures:
    """The average segment [C, T] as a butterfly plot, and its scalp maps at the peaks of global field power."""
    times = start_ms + 1000 * np.arange(evoked.shape[1]) / sfreq
    info, problem = located_info(channel_names, montage, sfreq)
    power = evoked.std(axis=0)
    peaks = _peaks(power, num_peaks=5, least_distance=max(1, round(0.04 * sfreq)))
    note = (
        f"Average of {num_segments:,} segments of the training and test splits, one line per channel; the thick line "
        "is the global field power."
    )
    if info is None:
        note += f" No scalp maps: {problem}"
        return EegFigures(
            butterfly=_butterfly(evoked, times, power, times[peaks], info, unit), scalp_maps=None, note=note
        )
    limit = float(np.abs(evoked[:, peaks]).max())
    note += f" Scalp maps at its peaks, all on one scale: red is positive, blue negative, up to ±{limit:.2g} ({unit})."
    return EegFigures(
        butterfly=_butterfly(evoked, times, power, times[peaks], info, unit),
        scalp_maps=_scalp_maps(evoked, times, peaks, info, limit),
        note=note,
    )


def located_info(names: Sequence[str] | None, montage: str | None, sfreq: float) -> tuple[Any, str | None]:
    """MNE's info with electrode positions, or None and the reason.

    The positions are those of the montage that is named, else of the first standard montage that has all names.
    """
    import mne

    if not names:
        return None, "the data set does not name its channels."
    for candidate in [montage] if montage else ["standard_1005", *mne.channels.get_builtin_montages()]:
        positions = mne.channels.make_standard_montage(candidate)
        if set(names) <= set(positions.ch_names):
            info = mne.create_info(list(names), sfreq, "eeg", verbose=False)
            info.set_montage(positions, verbose=False)
            return info, None
    return None, f"no standard montage holds all of its channel names ({', '.join(names[:3])}, …)."


def _peaks(power: Floats, *, num_peaks: int, least_distance: int) -> list[int]:
    """Samples of the highest local maxima in order of time, with a prominence of at least a tenth of the range."""
    from scipy.signal import find_peaks

    found, _ = find_peaks(power, distance=least_distance, prominence=0.1 * float(np.ptp(power)))
    if not len(found):
        found = np.array([int(power.argmax())])
    return sorted(found[np.argsort(power[found])[::-1][:num_peaks]].tolist())


def _butterfly(evoked: Floats, times: Floats, power: Floats, marks: Floats, info: Any, unit: str) -> str:
    plt = plots.pyplot()
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(11.5, 3.2))
        colours = _position_colours(info, len(evoked))
        for channel, colour in zip(evoked, colours, strict=True):
            axis.plot(times, channel, color=colour, linewidth=0.6, alpha=0.75, rasterized=True)
        axis.plot(times, power, color=plots.INK, linewidth=2.2)
        for mark in marks:
            axis.axvline(mark, color=plots.MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_xlabel("time after onset, ms")
        axis.set_ylabel(f"amplitude, {unit}")
        axis.margins(x=0)
        return plots.themed_svg(figure, "butterfly")


def _position_colours(info: Any, num_channels: int) -> list[Any]:
    """As MNE's butterfly plots: red to the right, green to the front, blue up; one colour without positions."""
    if info is None:
        return [plots.RASTER] * num_channels
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])
    low, high = positions.min(axis=0), positions.max(axis=0)
    shares = (positions - low) / np.where(high > low, high - low, 1)
    return [tuple(colour) for colour in 0.15 + 0.7 * shares]


def draw_scalp_map(axis: Any, values: Floats, info: Any, *, limit: float, contours: int, pixels: int) -> None:
    """Draw one value per channel of `info` as a map of the head; the colour scale ends at ± `limit`."""
    import mne

    mne.viz.plot_topomap(
        values,
        info,
        axes=axis,
        show=False,
        sensors=False,
        contours=contours,
        res=pixels,
        vlim=(-limit, limit),
        cmap="RdBu_r",
    )


def _scalp_maps(evoked: Floats, times: Floats, peaks: Sequence[int], info: Any, limit: float) -> str:
    plt = plots.pyplot()
    with plt.rc_context(plots.STYLE | {"axes.edgecolor": plots.MUTED}):  # the head's outline
        figure, axes = plt.subplots(1, len(peaks), figsize=(1.9 * len(peaks), 2.1), squeeze=False)
        for axis, peak in zip(axes[0], peaks, strict=True):
            draw_scalp_map(axis, evoked[:, peak], info, limit=limit, contours=4, pixels=64)
            axis.set_title(f"{times[peak]:.0f} ms", loc="center", fontsize=8.5, fontweight="normal")
        return plots.themed_svg(figure, "scalp")
