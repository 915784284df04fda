"""The one training loop: every stage, any number of ranks. Read `train` from top to bottom."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, atomic_path
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed, reseed_dropout
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import SEGMENT_FIGURES, MetricsLog, StageFolder
from neuroimagen.trainer.stages.base import SampledStage, Stage, chosen_figure
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.trainer.training.build import build_stage, load_initial
from neuroimagen.trainer.training.checkpoint import Checkpoints
from neuroimagen.trainer.training.checkpoint_folder import RunState, best_name, latest_checkpoint, read_state
from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Engines, Frozen, build_engines, set_learning_rates
from neuroimagen.trainer.training.evaluation_networks import evaluation_mode, evaluation_networks
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.trainer.training.loss_watch import BadLossError, LossWatch, report_bad_batch
from neuroimagen.trainer.training.process_group import ProcessGroup
from neuroimagen.trainer.training.samples import draw_samples
from neuroimagen.trainer.training.scalar_copy import ScalarCopy
from neuroimagen.trainer.training.speed import SpeedMeter


class Stopped(Exception):  # noqa: N818 - not an error
    """The run was asked to stop and has written a complete checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Set by a signal handler; the loop reads it between steps."""

    def __init__(self) -> None:
        self.requested = False


def train(recipe: Recipe, name: str, folder: StageFolder, *, device: torch.device, stop: StopRequest) -> None:
    """Train stage `name` in `folder`, from its newest checkpoint if it has one, to its export. Every rank calls it.

    Raises UserError when the recipe, the data or the disk does not allow it, Stopped after a stop request.
    """
    group = ProcessGroup()
    dataset, shapes, latents = open_inputs(recipe, name)
    stage = build_stage(recipe, name, shapes, initial=load_initial(recipe, name, folder.run), run=folder.run)
    config = stage.config
    data = StageData(
        dataset,
        needs=stage.needs,
        latents=latents,
        subjects=recipe.data.subjects,
        device=device,
        order=recipe.data.order,
        leave_out=recipe.data.leave_out,
        validation_fold=recipe.data.validation_fold,
        resident_gib=recipe.data.resident_gib,
    )
    stage.check(data)
    plan = stage.plan(data, derive_seed(recipe.seed, name, "plan") % 2**31)
    checkpoints = Checkpoints(folder.checkpoints, group=group, keep=config.keep_checkpoints)
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        stage.prepare(data)
    engines = build_engines(stage, world_size=group.world_size, device=device)
    averages = {}
    if config.ema_decay is not None:
        averages = {key: EMA(engine.held_weights(), config.ema_decay) for key, engine in engines.items()}
    state = RunState(world_size=group.world_size, data_digest=dataset.digest)
    if newest is not None:
        check_resumable(read_state(newest), state)
        state = checkpoints.load(newest, engines, averages)

    log = MetricsLog(folder, recipe, resume_step=state.step) if group.is_first else None
    watch = LossWatch(config.divergence_factor, state.recent_losses)
    feed = data.feed(plan)
    speed = SpeedMeter(feed, stage.global_batch_size, state.step)
    step_seed = derive_seed(recipe.seed, name, "steps")
    batches = feed.epochs(*divmod(state.step, plan.steps_per_epoch))
    while state.step < config.steps:
        batch = next(batches)
        learning_rate = set_learning_rates(stage, engines, state.step)
        try:
            figures = train_step(stage, engines, batch, step_seed, state.step, group, watch)
        except BadLossError as error:
            state.skipped += 1
            report_bad_batch(error, folder, group)
            if config.on_bad_loss == "stop" or state.skipped > config.max_skipped:
                raise UserError(error.advice(state.skipped)) from None
            figures = {}
        state.step += 1
        state.recent_losses = watch.recent
        for key, average in averages.items():
            average.update(engines[key].held_weights(), state.step)

        last = state.step == config.steps
        if state.step % config.log_every == 0 or last:
            means = group.mean(figures)
            if log:
                log.write(state.step, {**means, "learning_rate": learning_rate, **speed.read(state.step)})
        if state.step % config.validate_every == 0 or last:
            with evaluation_networks(engines, averages) as networks:
                validation, segments = validate(stage, networks, data)
                speed.restart(state.step)
                if log:
                    log.write(state.step, {f"val_{key}": value for key, value in validation.items()})
                validated = [*state.recent_figures, validation[stage.selection.metric]]
                state.recent_figures = validated[-config.smoothed_over :]
                figure = chosen_figure(state.recent_figures, config, last=last)
                if figure is not None and stage.selection.better(figure, state.best):
                    state.best, state.best_step = figure, state.step
                    best = folder.checkpoints / best_name(state.step)
                    group.attempt(partial(write_best, stage.exported(networks), best, segments))
        if isinstance(stage, SampledStage) and stage.samples_due(state.step):
            with evaluation_networks(engines, averages) as networks:
                group.attempt(partial(write_samples, stage, networks, data, log, state.step))
            speed.restart(state.step)
        stopping, writing = group.any(stop.requested, checkpoints.is_writing)
        if checkpoints.is_pending and not writing:
            checkpoints.commit()
        if state.step % config.checkpoint_every == 0 or last or stopping:
            checkpoints.save(state, engines, averages)
            if last or stopping:
                checkpoints.commit()
            speed.restart(state.step)
        if stopping and not last:
            if log:
                log.close()
            raise Stopped(state.step)

    # Of several data sets that are joined, the first is the run's own.
    group.attempt(partial(InputDescription.of(dataset.sources[0].metadata).write, folder.run))
    group.attempt(partial(write_export, folder, state))
    if log:
        log.close()


def train_step(
    stage: Stage,
    engines: Engines,
    batch: Batch,
    seed: int,
    step: int,
    group: ProcessGroup,
    watch: LossWatch | None = None,
) -> dict[str, Tensor]:
    """Run every phase of one step: loss, backward pass and optimiser step of one network, with the others frozen.

    A frozen network is called as a plain module: a DeepSpeed engine that is called but not stepped keeps the
    gradients of another's loss, which is silently wrong on ZeRO 1 and an assertion on ZeRO 2 and 3.

    Returns the figures of this rank's part of the batch, each a 0-dim tensor. Raises BadLossError, before the
    optimiser's step, for a loss that is not finite or, by `watch`, diverges.
    """
    total = stage.global_batch_size
    first = total * group.rank // group.world_size  # as plan.rank_slice cuts
    config = stage.config
    watch = watch or LossWatch(None, {})
    figures: dict[str, Tensor] = {}

    def check(network: str, loss: ScalarCopy) -> None:
        verdict = watch.verdict(network, group.mean_of(loss.value()))
        if verdict is not None:
            keys = [segment_key(row) for row in batch.rows.tolist()]
            raise BadLossError(f"{stage.name}: {network}", step + 1, verdict, keys)

    for phase in stage.phases:
        others = [engine.module for key, engine in engines.items() if key != phase.network]
        networks = {key: engine.deepspeed if key == phase.network else engine.module for key, engine in engines.items()}
        prefix = "" if len(stage.phases) == 1 else f"{phase.network}_"
        phase_seed = derive_seed(seed, phase.network)
        with Frozen(others):
            for start, block in cut_batch(batch, config.gradient_accumulation):
                random = StepRandom(phase_seed, step, first=first + start, count=len(block), device=batch.eeg.device)
                for engine in engines.values():
                    reseed_dropout(engine.module, random)
                loss, more = phase.loss(networks, block, random)
                loss_copy = ScalarCopy(loss)
                # A batch that is to be left out must leave no gradients. Otherwise the check comes after the backward
                # pass is queued, so that a GPU does not wait for it.
                if config.on_bad_loss == "skip":
                    check(phase.network, loss_copy)
                engines[phase.network].backward(loss)
                if config.on_bad_loss == "stop":
                    check(phase.network, loss_copy)
                engines[phase.network].step()
                for key, value in {f"{prefix}loss": loss.detach(), **more}.items():
                    value = value / config.gradient_accumulation
                    figures[key] = figures[key] + value if key in figures else value
    return figures


def cut_batch(batch: Batch, num_blocks: int) -> Iterator[tuple[int, Batch]]:
    """Cut a batch into equal blocks; yields each with the position of its first segment in the batch."""
    if num_blocks == 1:
        yield 0, batch
        return
    size = len(batch) // num_blocks
    for start in range(0, size * num_blocks, size):
        block = slice(start, start + size)
        tensors = {
            field.name: value[block]
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        latents = {kind: values[block] for kind, values in batch.latents.items()}
        yield start, dataclasses.replace(batch, latents=latents, **tensors)


def validate(
    stage: Stage, networks: Mapping[str, nn.Module], data: StageData
) -> tuple[dict[str, float], SegmentFigures | None]:
    """The stage's validation figures, computed with its networks in evaluation mode; where it has them, by segment."""
    with evaluation_mode(networks):
        found = stage.validate(networks, data)
    return (found.means(), found) if isinstance(found, SegmentFigures) else (found, None)


def write_samples(
    stage: SampledStage, networks: Mapping[str, nn.Module], data: StageData, log: MetricsLog | None, step: int
) -> None:
    """Draw what the stage makes of a few validation segments, and write it to the log. On rank 0 alone."""
    assert log is not None
    with evaluation_mode(networks):
        log.write_image(step, draw_samples(stage, networks, data))


def check_resumable(saved: RunState, now: RunState) -> None:
    """Refuse to resume on other data. The number of ranks may differ: the global batches stay the same."""
    if saved.data_digest != now.data_digest:
        raise UserError("the data set has changed since the checkpoint was written. Restore it, or start a new run.")


def write_best(network: Any, folder: Path, segments: SegmentFigures | None) -> None:
    """Save the best network so far and its figures by segment; they replace what an earlier attempt has left."""
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        network.save_pretrained(temporary)
        if segments is not None:
            segments.write(temporary / SEGMENT_FIGURES)


def write_export(folder: StageFolder, state: RunState) -> None:
    """Copy the best network to export/, which marks the stage as finished, and its figures by segment beside it."""
    if folder.is_finished:
        return
    best = folder.checkpoints / best_name(state.best_step)
    if (best / SEGMENT_FIGURES).is_file():
        with atomic_path(folder.segment_figures) as unfinished:
            shutil.copyfile(best / SEGMENT_FIGURES, unfinished)
    with atomic_folder(folder.export) as temporary:
        shutil.copytree(best, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SEGMENT_FIGURES))
