"""What choosing a checkpoint on the test split would have added: printed, and read by nothing.

Many published figures choose the epoch by its test score. This compares the choice that the validation split made with
the one that the test split would have made, among the checkpoints that the run has kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.evaluation.metrics.embedding_retrieval import embedding_values
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import embed_rows, load_alignment, make_gallery
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.runs.metrics_lines import read_metrics
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.training.checkpoint_folder import complete_checkpoints, read_state
from neuroimagen.trainer.training.engines.engine_state import read_network

_NETWORK = "model"


@dataclass(frozen=True, kw_only=True)
class AuditedCheckpoint:
    """One kept checkpoint of the alignment stage."""

    step: int
    validation: float | None
    """The figure that selects, of this step's validation; None where the step was not validated."""
    top1: float
    """Share of test segments whose stimulus ranks first."""


def selection_audit(
    run: Path,
    dataset: Dataset,
    *,
    open_latents: Callable[[str], LatentStore],
    subjects: Sequence[int] | None = None,
) -> str:
    """A table of the kept checkpoints with their validation and test figures, and what choosing on test would add.

    Raises UserError where the run has no alignment stage, or fewer than two kept checkpoints that were validated.
    """
    folder = StageFolder(run, "alignment")
    model = load_alignment(run)
    if model is None:
        raise UserError(f"{run} has no trained alignment stage, which --selection-audit is about.")
    rows = dataset.rows("test", subjects)
    stimuli = dataset.index.stimulus[rows].astype(np.int64)
    gallery = make_gallery(model, dataset, open_latents(model.kinds[0]), np.unique(stimuli))
    columns = np.searchsorted(gallery.stimuli, stimuli)

    def top1(network: AlignmentModel) -> float:
        similarity = gallery.similarity(embed_rows(network, dataset, rows)[gallery.kind])
        values = embedding_values(similarity, columns, gallery.same_class, num_trials=1, seed=0)
        return float(values["embedding_top1"].mean())

    chosen = top1(model)
    figures = _validation_figures(folder)
    audited = [
        AuditedCheckpoint(step=step, validation=figures.get(step), top1=top1(_network_at(path, model)))
        for path in complete_checkpoints(folder.checkpoints)
        if (step := read_state(path).step) in figures
    ]
    if len(audited) < 2:
        raise UserError(
            f"{folder.checkpoints} keeps {len(audited)} checkpoint(s) that were validated, and a comparison needs two. "
            "Train with alignment.keep_checkpoints=1000 and checkpoint_every equal to validate_every."
        )
    return _text(audited, chosen)


def _network_at(checkpoint: Path, like: AlignmentModel) -> AlignmentModel:
    """The network of a checkpoint: the averaged weights, where the run keeps them, as validation used them."""
    network = AlignmentModel(**like.config).eval()
    average = checkpoint / f"ema-{_NETWORK}.safetensors"
    state = load_file(average) if average.is_file() else read_network(checkpoint / _NETWORK, network)
    network.load_state_dict(state)
    return network.to(next(iter(like.parameters())).device)


def _validation_figures(folder: StageFolder) -> dict[int, float]:
    """Step → the figure that selects the weights."""
    figures: dict[int, float] = {}
    for line in read_metrics(folder.metrics):
        if "val_mrr" in line:
            figures[int(line["step"])] = line["val_mrr"]
    return figures


def _text(audited: Sequence[AuditedCheckpoint], chosen: float) -> str:
    lines = ["      step  validation MRR  test top-1 %"]
    lines += [f"{item.step:10d}  {item.validation:14.4f}  {100 * item.top1:12.1f}" for item in audited]
    best = max(audited, key=lambda item: item.top1)
    gain = 100 * (best.top1 - chosen)
    lines += [
        "",
        f"The validation split chose weights with a test top-1 of {100 * chosen:.1f} %. The test split would have "
        f"chosen step {best.step} of these {len(audited)}: {100 * best.top1:.1f} %, a bias of {gain:+.1f} points.",
        "This is printed only. Nothing reads it, and no figure of the report depends on it.",
    ]
    return "\n".join(lines)
