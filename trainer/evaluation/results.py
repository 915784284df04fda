"""results.json: a list of {row, metric, value, low, high, n, definition}; and what the rows are called and mean."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics import DEFINITIONS
from neuroimagen.trainer.evaluation.permutation_test import NUM_PERMUTATIONS

RESULTS_FILE = "results.json"
Group = Literal["model", "ablation", "oracle", "floor", "eeg", "baseline", "nuisance", "reference", "difference"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row of the table is."""

    title: str
    text: str
    group: Group


ROWS: Mapping[str, Row] = {
    "full": Row(title="class caption + saliency", text="the model: semantic embedding and saliency map", group="model"),
    "semantic_only": Row(
        title="class caption only", text="the semantic embedding alone, denoised from pure noise", group="ablation"
    ),
    "saliency_only": Row(title="saliency map only", text="the saliency map itself, no diffusion", group="ablation"),
    "full_detailed": Row(
        title="detailed caption + saliency",
        text="as the model, with the embedding trained on captions of the single picture (BLIP's place)",
        group="ablation",
    ),
    "semantic_only_detailed": Row(
        title="detailed caption only", text="the embedding trained on captions of the single picture", group="ablation"
    ),
    "fine_tuned": Row(
        title="fine-tuned U-Net",
        text="the diffusion stage's embedding through the U-Net it fine-tuned on EEG, from pure noise",
        group="ablation",
    ),
    "full_fine_tuned": Row(
        title="fine-tuned U-Net + saliency", text="the same, denoised from the saliency map", group="ablation"
    ),
    "oracle_class": Row(
        title="true class as prompt", text="the generator prompted with the true class, no EEG", group="oracle"
    ),
    "perfect_saliency": Row(
        title="true layout and class",
        text="the true picture blurred to the saliency map's detail, and the true class as prompt, no EEG",
        group="oracle",
    ),
    "vae_round_trip": Row(
        title="VAE round trip",
        text="the true picture through the autoencoder: no generator can be closer",
        group="oracle",
    ),
    "random_class": Row(
        title="random class as prompt", text="the generator prompted with a class drawn at random", group="floor"
    ),
    "mean_image": Row(title="mean training picture", text="the mean of all training stimuli", group="floor"),
    "eeg_classifier": Row(
        title="nearest class centroid",
        text="the class whose mean training embedding f(x) is nearest to the segment's: what the EEG encoder knows",
        group="eeg",
    ),
    "linear_decoder": Row(
        title="linear decoder",
        text="shrinkage LDA on the raw window in 40 ms bins, fitted on the training part",
        group="eeg",
    ),
    "linear_decoder_detrended": Row(
        title="linear decoder, detrended",
        text="the same after each channel's mean and slope are removed from each segment: slow drift cannot help it",
        group="eeg",
    ),
    "linear_retrieval": Row(
        title="linear retrieval",
        text="features of the picture predicted by ridge regression from the raw window; the stimulus is found by them",
        group="eeg",
    ),
    "linear_retrieval_averaged": Row(
        title="linear retrieval, averaged",
        text="the same, predictions averaged over the repetitions of a stimulus to a subject",
        group="eeg",
    ),
    "eeg_retrieval": Row(
        title="embedding retrieval",
        text="features of the picture predicted by ridge regression from the encoder's embedding f(x)",
        group="eeg",
    ),
    "eeg_retrieval_averaged": Row(
        title="embedding retrieval, averaged",
        text="the same, predictions averaged over the repetitions of a stimulus to a subject",
        group="eeg",
    ),
    "leave_one_subject_out": Row(
        title="unseen subject",
        text="the detrended linear decoder of all other subjects: one subject's drift says nothing of another's",
        group="eeg",
    ),
    "eeg_classifier_unseen_subject": Row(
        title="nearest class centroid, unseen subject",
        text="the contrastive stage trained anew without the subject, and the mean embeddings of all others' classes",
        group="eeg",
    ),
    "early_part_of_block": Row(
        title="early part of blocks",
        text="the linear decoder fitted on the first half of every block and scored on it",
        group="eeg",
    ),
    "late_part_of_block_out": Row(
        title="late part of blocks, left out",
        text="the same decoder scored on the second half, which it never saw: what drifts is further away there",
        group="eeg",
    ),
    "nearest_class_mean": Row(
        title="nearest class mean", text="the class whose mean training window is nearest", group="baseline"
    ),
    "ridge_raw": Row(title="ridge, raw window", text="ridge regression on the raw window", group="baseline"),
    "logistic_raw": Row(
        title="logistic regression, raw window", text="logistic regression on the raw window", group="baseline"
    ),
    "ridge_band_power": Row(title="ridge, band power", text="ridge regression on log band power", group="baseline"),
    "logistic_band_power": Row(
        title="logistic regression, band power", text="logistic regression on log band power", group="baseline"
    ),
    "riemann_mdm": Row(
        title="Riemannian minimum distance",
        text="covariances, minimum distance to the mean of a class (pyriemann)",
        group="baseline",
    ),
    "riemann_tangent": Row(
        title="Riemannian tangent space",
        text="covariances in the tangent space, logistic regression (pyriemann)",
        group="baseline",
    ),
    "mean_slope_only": Row(
        title="channel mean + slope",
        text="shrinkage LDA on each channel's mean and slope over the segment: all that slow drift can say",
        group="nuisance",
    ),
    "time_index_only": Row(
        title="time index",
        text="the class of the training segment nearest in recording time, EEG unseen: what the order of recording "
        "gives away",
        group="nuisance",
    ),
    "block_index_only": Row(
        title="block index",
        text="the commonest class of the training segments in the same block, EEG unseen",
        group="nuisance",
    ),
    "phantom_drift": Row(
        title="phantom drift",
        text="the linear decoder on recordings that have the drift of these and nothing of the stimulus",
        group="nuisance",
    ),
    "phantom_drift_detrended": Row(
        title="phantom drift, detrended",
        text="the detrended linear decoder on the same phantoms: what detrending leaves of the drift",
        group="nuisance",
    ),
    "phantom_full": Row(
        title="phantom, whole pipeline",
        text="every stage trained anew on a phantom, and its pictures measured as the model's: drift, no stimulus",
        group="nuisance",
    ),
    "phantom_eeg_classifier": Row(
        title="phantom, class centroid",
        text="the nearest class centroid of the encoder that was trained on the phantom",
        group="nuisance",
    ),
    "permuted_labels": Row(
        title="permuted labels",
        text="the linear decoder fitted on training labels shuffled within subjects",
        group="nuisance",
    ),
    "chance": Row(title="chance", text="guessing", group="reference"),
    "chance_eeg": Row(title="chance, classes shown", text="guessing one class of the data set", group="reference"),
    "ceiling": Row(
        title="ceiling",
        text="the best that any decoder could reach, from the simulated study's true parameters",
        group="reference",
    ),
    "full_minus_semantic_only": Row(
        title="gain from the saliency map",
        text="model minus class caption only, on the same stimuli",
        group="difference",
    ),
    "full_over_ceiling": Row(
        title="share of the ceiling", text="the model's accuracy divided by the ceiling", group="difference"
    ),
}
"""The rows that are known by name, in the table's order; others come after them under their own names."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of the table. `low` and `high` are a 95 % interval, or None where there is none."""

    row: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    definition: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.row} {self.metric} is {self.value}")


def result(row: str, metric: str, estimate: Estimate, definition: str) -> Result:
    """A result from an estimate."""
    return Result(
        row=row,
        metric=metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        definition=definition,
    )


def p_result(row: str, metric: str, p: float, *, n: int) -> Result:
    """A permutation p of `n` segments; its definition needs no numbers of the run but the permutations'."""
    text = DEFINITIONS[metric].text.format(permutations=NUM_PERMUTATIONS)
    return Result(row=row, metric=metric, value=p, low=None, high=None, n=n, definition=text)


def row_of(name: str) -> Row:
    """Title and meaning of a row; an unknown one goes by its name."""
    return ROWS.get(name) or Row(title=name.replace("_", " "), text=name, group="ablation")


def metric_title(name: str) -> str:
    """Column heading of a metric."""
    return DEFINITIONS[name].title if name in DEFINITIONS else name.replace("_", " ")


def format_value(metric: str, value: float) -> str:
    """A figure as the table shows it: shares as percentages, the rest with three digits."""
    if metric in DEFINITIONS and DEFINITIONS[metric].is_share:
        return f"{100 * value:.1f}"
    if metric.endswith("_p"):
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results.json, whole or not at all."""
    content = json.dumps([asdict(item) for item in results], indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(content + "\n", encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """The results of a run; UserError where `evaluate` has not run or the file is no results.json."""
    try:
        return [Result(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run `neuroimagen evaluate` first.") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a results.json ({error}). Run `neuroimagen evaluate` again.") from error


def find(results: Sequence[Result], row: str, metric: str) -> Result | None:
    """The figure of one row and metric, or None."""
    return next((item for item in results if item.row == row and item.metric == metric), None)


def guessing(results: Sequence[Result]) -> float | None:
    """The accuracy of pictures of a class that is guessed, 0..1: one of those the classifier chooses among, or, where
    that is more, one of the data set's, which a model that knows nothing else still knows. None where it is unknown."""
    chances = [found.value for row in ("chance", "chance_eeg") if (found := find(results, row, "accuracy"))]
    return max(chances, default=None)


def ordered_rows(results: Sequence[Result]) -> list[str]:
    """Row names in the table's order."""
    present = dict.fromkeys(item.row for item in results)
    return [name for name in ROWS if name in present] + [name for name in present if name not in ROWS]


def text_table(results: Sequence[Result], metrics: Sequence[str]) -> str:
    """An aligned table of the given metrics, one line a row: value and 95 % interval; for the terminal."""
    shown = [name for name in ordered_rows(results) if any(find(results, name, metric) for metric in metrics)]
    cells = [["", *(metric_title(metric) + (" %" if _is_share(metric) else "") for metric in metrics)]]
    for name in shown:
        cells.append([row_of(name).title, *(_cell(find(results, name, metric)) for metric in metrics)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        lines.append(
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        )
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def _is_share(metric: str) -> bool:
    return metric in DEFINITIONS and DEFINITIONS[metric].is_share


def _cell(found: Result | None) -> str:
    if found is None:
        return "·"
    value = format_value(found.metric, found.value)
    if found.low is None or found.high is None:
        return value
    bounds = (f"{100 * bound:.0f}" if _is_share(found.metric) else f"{bound:.2f}" for bound in (found.low, found.high))
    return f"{value} [{', '.join(bounds)}]"
