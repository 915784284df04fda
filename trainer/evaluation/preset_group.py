"""The figures of a preset as a group of their own, with what they can be compared with and what not."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.trainer.evaluation.metrics.registry import all_metrics
from neuroimagen.trainer.evaluation.results import Result, text_table
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.reconstruction.manifest import Reconstructions

TITLE = "Figures as THINGS papers print them"
_COLUMNS = 4
"""Metrics beside each other in the terminal."""
_PAPERS_DATA, _PAPERS_STIMULI = "things-eeg2", 200


def preset_group(
    scoring: Scoring, dataset: Dataset, results: Sequence[Result], headline: Reconstructions | None
) -> dict[str, Any] | None:
    """Title, metrics and notes of the preset's group, as JSON values; None where no preset is on.

    `headline`: the reconstructions of the main condition, whose numbers the notes state.
    """
    if scoring.networks.things is None:
        return None
    of_preset = {name: metric for name, metric in all_metrics().items() if (metric.needs or "").startswith("things")}
    present = {item.metric for item in results}
    missing = [metric.title for name, metric in of_preset.items() if name not in present]
    return {
        "title": TITLE,
        "metrics": [name for name in of_preset if name in present],
        "notes": [*_notes(scoring, dataset.metadata, headline), *([_not_measured(missing)] if missing else [])],
    }


def preset_text(group: Mapping[str, Any], results: Sequence[Result], *, notes: Mapping[str, str] | None = None) -> str:
    """The group as text for the terminal: its table, and a line for each note."""
    own = [item for item in results if item.metric in group["metrics"]]
    tables = []
    for start in range(0, len(group["metrics"]), _COLUMNS):
        tables += [text_table(own, group["metrics"][start : start + _COLUMNS], notes=notes), ""]
    return "\n".join([f"{group['title']}:", "", *tables, *group["notes"]])


def _notes(scoring: Scoring, metadata: DatasetMetadata, headline: Reconstructions | None) -> list[str]:
    """What is as in the papers, what is not, and what to look for in a paper before its figures are compared."""
    num_stimuli = len(scoring.references.stimuli)
    differences = _differences(scoring, metadata)
    verdict = (
        f"Not comparable with the tables of ATM, CognitionCapturer and others: {'; '.join(differences)}."
        if differences
        else f"Comparable with tables for the {num_stimuli} test images of THINGS-EEG2, averaged over their "
        "presentations; check the paper for what the next line says."
    )
    networks = scoring.networks.things
    assert networks is not None
    for name, deviation in networks.deviations.items():
        verdict += f" The figure of evaluate.things.{name} does not compare with any paper's: {deviation}."
    return [
        "The protocol is that of MindEye's evaluation, which ATM took over: images at 256 px, then at the side of each "
        "network, nothing cropped; ties count against in two-way identification; mean over pictures.",
        verdict,
        _drawn(headline)
        + "A paper that draws several pictures of a test image and keeps one by its similarity with that image has "
        "chosen on the test set: its figures are higher and do not compare. See also which subjects a paper averages "
        "over; some print one.",
    ]


def _drawn(headline: Reconstructions | None) -> str:
    """How many pictures the main condition's figures are the mean of."""
    if headline is None:
        return ""
    num_segments, num_subjects = len(set(headline.segments)), len(set(headline.subjects.tolist()))
    samples = len(headline) / num_segments
    subjects = f"{num_subjects} subject{'s' if num_subjects > 1 else ''}"
    if samples == 1:
        return f"Here {num_segments} segments of {subjects} have one picture each, and none is picked. "
    return (
        f"Here {num_segments} segments of {subjects} have {samples:g} pictures each, whose mean counts, and none is "
        "picked. "
    )


def _differences(scoring: Scoring, metadata: DatasetMetadata) -> list[str]:
    """In what the evaluation is not that of the papers, a clause each."""
    num_stimuli = len(scoring.references.stimuli)
    found = []
    if metadata.name != _PAPERS_DATA:
        found.append(f"the data set is {metadata.name}, not THINGS-EEG2")
    else:
        repetitions = metadata.preprocessing.get("repetitions")
        treatment = repetitions.get("test") if isinstance(repetitions, Mapping) else repetitions
        if treatment != "average":
            found.append(
                "test segments are single presentations, where the papers average the 80 presentations of a test image "
                "before anything is drawn (`data ingest things-eeg2 --repetitions train=keep test=average`)"
            )
    if num_stimuli != _PAPERS_STIMULI:
        found.append(f"there are {num_stimuli} test stimuli, not {_PAPERS_STIMULI}")
    return found


def _not_measured(titles: Sequence[str]) -> str:
    return (
        f"Not measured: {', '.join(titles)}. evaluate.things names no folder for them; docs/how-to/things-figures.md "
        "says what such a folder holds."
    )
