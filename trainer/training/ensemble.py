"""Trains the networks of an ensemble one after the other, in one job, and exports them together.

RUN/STAGE/members/KEY is a run like any other with that one stage: another fold, seed or encoder. Finished members are
not trained again, so a job that was stopped goes on where it was.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, atomic_path
from neuroimagen.data_shards.common.reading import read_json_object
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.batches.folds import divides_stimuli, rows_of_folds
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.evaluation.eeg_conditions import CROSS_VALIDATION
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.classifier_ensemble import ClassifierEnsemble, mixture_weights
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import derive_seed
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import MetricsLog, StageFolder, open_stage_folder
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.trainer.training.loop import StopRequest, train
from neuroimagen.trainer.training.process_group import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training of an ensemble."""

    key: str
    """Name of its folder: encoder, fold and seed."""
    encoder: str
    seed: int
    fold: int | None
    recipe: Recipe


def ensemble_members(recipe: Recipe, name: str) -> list[Member]:
    """The trainings of stage `name`, in their order; none where it is one training. Raises UserError for an encoder
    that does not exist.
    """
    config = STAGES[name].ensemble(recipe.stages[name])
    if config is None:
        return []
    alone = dataclasses.replace(recipe.stages[name], ensemble=type(config)())
    members = []
    for kind in config.encoders or (recipe.encoder.kind,):
        # The recipe's own section where it is of that kind: its settings are meant.
        encoder = recipe.encoder if kind == recipe.encoder.kind else encoder_config(kind)
        for seed in range(config.seeds):
            for fold in range(config.folds) if config.folds is not None else (None,):
                data = recipe.data
                if fold is not None and config.folds is not None:
                    data = dataclasses.replace(data, validation_fold=(fold, config.folds))
                key = f"{kind}-seed{seed}" + ("" if fold is None else f"-fold{fold}")
                own = recipe.seed if seed == 0 else derive_seed(recipe.seed, "ensemble", seed) % 2**31
                changed = dataclasses.replace(recipe, encoder=encoder, data=data, seed=own).with_stage(name, alone)
                members.append(Member(key=key, encoder=kind, seed=seed, fold=fold, recipe=changed))
    return members


def train_ensemble(recipe: Recipe, name: str, folder: StageFolder, *, device: torch.device, stop: StopRequest) -> None:
    """Train every member of stage `name` that is not finished, weigh them, and export them together. Every rank calls
    it. Raises UserError and Stopped as `train` does.
    """
    group = ProcessGroup()
    members = ensemble_members(recipe, name)
    dataset, _, _ = open_inputs(recipe, name)
    log = MetricsLog(folder, recipe, resume_step=0) if group.is_first else None
    predicted: list[tuple[np.ndarray, torch.Tensor]] = []
    networks = []
    for number, member in enumerate(members, start=1):
        own = StageFolder(folder.path / "members" / member.key, name)
        if not own.is_finished:
            group.attempt(partial(_open, own, member.recipe, group.world_size))
            train(member.recipe, name, own, device=device, stop=stop)
        network = ClassifierModel.from_pretrained(own.export, device=device)
        data = StageData(
            dataset,
            needs=STAGES[name].batch_needs(member.recipe.stages[name]),
            latents={},
            subjects=recipe.data.subjects,
            device=device,
            validation_fold=member.recipe.data.validation_fold,
        )
        rows = data.rows("val")
        predicted.append((rows, _probabilities(network, data, rows)))
        networks.append(network.cpu())
        if log:
            right = predicted[-1][1].argmax(1).numpy() == dataset.index.label[rows]
            log.write(number * recipe.stages[name].steps, {"val_accuracy": float(right.mean())})
    group.attempt(partial(InputDescription.of(dataset.sources[0].metadata).write, folder.run))
    group.attempt(partial(_export, folder, members, networks, predicted, recipe))
    if log:
        log.close()


def _open(folder: StageFolder, recipe: Recipe, num_ranks: int) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    open_stage_folder(folder, recipe, num_ranks=num_ranks, resume=True)


@torch.no_grad()
def _probabilities(network: ClassifierModel, data: StageData, rows: np.ndarray) -> torch.Tensor:
    """Of every class for each of `rows`, [n, K], on every rank."""
    own = [torch.empty(0, network.head.out_features, device=data.device)]
    for batch in data.batches(data.share(rows), 64, eeg_only=True):
        own.append(F.softmax(network(batch.eeg, batch.subject).float(), dim=1))
    return data.gather(torch.cat(own)).double()


def _export(
    folder: StageFolder,
    members: Sequence[Member],
    networks: Sequence[ClassifierModel],
    predicted: Sequence[tuple[np.ndarray, torch.Tensor]],
    recipe: Recipe,
) -> None:
    dataset, _, _ = open_inputs(recipe, folder.stage)
    kinds = list(dict.fromkeys(member.encoder for member in members))
    rows = np.unique(np.concatenate([rows for rows, _ in predicted]))
    labels = torch.from_numpy(dataset.index.label[rows].astype(np.int64))
    mean = {kind: torch.zeros(len(rows), predicted[0][1].shape[1], dtype=torch.float64) for kind in kinds}
    seeds = 1 + max(member.seed for member in members)
    for member, (own, probabilities) in zip(members, predicted, strict=True):
        mean[member.encoder][np.searchsorted(rows, own)] += probabilities / seeds
    stacked = torch.stack([mean[kind] for kind in kinds])
    weights = mixture_weights(stacked, labels)
    of_kind = dict(zip(kinds, weights.tolist(), strict=True))
    ensemble = ClassifierEnsemble.of(networks, [of_kind[member.encoder] for member in members])
    stimuli = dataset.index.stimulus[rows]
    by_stimulus = _by_stimulus(recipe, folder.stage, dataset)
    mixed = (weights[:, None, None] * stacked).sum(0)
    found = []
    for kind, probabilities, weight in [*zip(kinds, stacked, weights.tolist(), strict=True), ("all", mixed, 1.0)]:
        hits = (probabilities.argmax(1) == labels).double().numpy()
        units = stimuli if by_stimulus else np.arange(len(rows))
        estimate = bootstrap_mean(hits, units, is_share=True, seed=recipe.seed)
        likelihood = probabilities.gather(1, labels[:, None]).clamp_min(1e-12).log().mean()
        found.append(
            {
                **{"encoder": kind, "accuracy": estimate.value, "low": estimate.low, "high": estimate.high},
                **{"n": estimate.n, "log_loss": -float(likelihood), "weight": weight},
            }
        )
    config = STAGES[folder.stage].ensemble(recipe.stages[folder.stage])
    assert config is not None
    content = {"folds": config.folds, "seeds": config.seeds, "by_stimulus": by_stimulus, "encoders": found}
    with atomic_path(folder.path / CROSS_VALIDATION) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_folder(folder.export) as temporary:
        ensemble.save_pretrained(temporary)


def _by_stimulus(recipe: Recipe, name: str, dataset: Dataset) -> bool:
    """Whether folds, and so the intervals, are of whole stimuli."""
    config = STAGES[name].ensemble(recipe.stages[name])
    assert config is not None
    rows = rows_of_folds(dataset, recipe.data.subjects)
    return divides_stimuli(dataset, rows, config.folds or 2)


def cross_validation_text(stage: Path) -> str:
    """What an ensemble's encoders reach on segments they were not trained on, as a table. Raises UserError where the
    folder holds none.
    """
    path = stage / CROSS_VALIDATION
    if not path.is_file():
        raise UserError(f"{path} does not exist: the stage was not trained as an ensemble.")
    content = read_json_object(path)
    unit = "stimulus" if content["by_stimulus"] else "segment, in stretches of recording time"
    if content["folds"] is None:
        how = "the validation split, which has also chosen the weights"
    else:
        how = f"{content['folds']} folds of the training and validation segments, by {unit}"
    lines = [
        f"Cross-validation on {how}; the test split is not touched.",
        "encoder            accuracy  95 %          weight",
    ]
    for item in content["encoders"]:
        interval = "" if item["low"] is None else f"{100 * item['low']:.1f}–{100 * item['high']:.1f}"
        share = "" if item["encoder"] == "all" else f"{item['weight']:.2f}"
        lines.append(f"{item['encoder']:18s} {100 * item['accuracy']:6.1f} %  {interval:12s}  {share}".rstrip())
    return "\n".join(lines)
