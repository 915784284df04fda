"""The one training loop: every stage, any number of ranks. Read `train` from top to bottom."""

import dataclasses
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.device_feed import Feed
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed, reseed_dropout
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import MetricsLog, StageFolder
from neuroimagen.trainer.stages.base import SampledStage, Stage
from neuroimagen.trainer.training.build import build_stage, load_initial
from neuroimagen.trainer.training.checkpoint import Checkpoints, RunState, best_name, latest_checkpoint, read_state
from neuroimagen.trainer.training.ema import EMA
from neuroimagen.trainer.training.engine import Engines, Frozen, build_engines, set_learning_rates
from neuroimagen.trainer.training.evaluation_networks import evaluation_mode, evaluation_networks
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.trainer.training.loss_watch import LossWatch
from neuroimagen.trainer.training.process_group import Ranks
from neuroimagen.trainer.training.samples import draw_samples
from neuroimagen.trainer.training.scalar_copy import HostNumber


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved itself
    """The run was asked to stop; its checkpoint is complete."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Set by a signal handler; the loop looks at it between steps."""

    def __init__(self) -> None:
        self.requested = False


def train(recipe: Recipe, name: str, folder: StageFolder, *, device: torch.device, stop: StopRequest) -> None:
    """Train stage `name` in `folder`, from its newest checkpoint if it has one, to its export. Every rank calls it.

    Raises UserError when the recipe, the data or the disk does not allow it, Stopped after a stop request.
    """
    ranks = Ranks()
    dataset, shapes, latents = open_inputs(recipe, name)
    stage = build_stage(recipe, name, shapes, initial=load_initial(recipe, name, folder.run))
    config = stage.config
    data = StageData(
        dataset,
        needs=stage.needs,
        latents=latents,
        subjects=recipe.data.subjects,
        device=device,
        order=recipe.data.order,
        resident_gib=recipe.data.resident_gib,
    )
    stage.check(data)
    plan = stage.plan(data, derive_seed(recipe.seed, name, "plan") % 2**31)
    checkpoints = Checkpoints(folder.checkpoints, ranks=ranks, keep=config.keep_checkpoints)
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        stage.prepare(data)
    engines = build_engines(stage, world_size=ranks.world_size, device=device)
    averages = {}
    if config.ema_decay is not None:
        averages = {key: EMA(engine.held_weights(), config.ema_decay) for key, engine in engines.items()}
    state = RunState(world_size=ranks.world_size, data_digest=dataset.digest)
    if newest is not None:
        check_resumable(read_state(newest), state)
        state = checkpoints.load(newest, engines, averages)

    log = MetricsLog(folder, recipe, resume_step=state.step) if ranks.is_first else None
    watch = LossWatch(config.divergence_factor, state.recent_losses)
    feed = data.feed(plan)
    clock = Clock(feed, stage.global_batch_size, state.step)
    step_seed = derive_seed(recipe.seed, name, "steps")
    batches = feed.epochs(*divmod(state.step, plan.steps_per_epoch))
    while state.step < config.steps:
        batch = next(batches)
        learning_rate = set_learning_rates(stage, engines, state.step)
        try:
            figures = train_step(stage, engines, batch, step_seed, state.step, ranks, watch)
        except BadLossError as error:
            state.skipped += 1
            report_bad_batch(error, folder, ranks)
            if config.on_bad_loss == "stop" or state.skipped > config.max_skipped:
                raise UserError(error.advice(state.skipped)) from None
            figures = {}
        state.step += 1
        state.recent_losses = watch.recent
        for key, average in averages.items():
            average.update(engines[key].held_weights(), state.step)

        last = state.step == config.steps
        if state.step % config.log_every == 0 or last:
            means = ranks.mean(figures)
            if log:
                log.write(state.step, {**means, "learning_rate": learning_rate, **clock.read(state.step)})
        if state.step % config.validate_every == 0 or last:
            with evaluation_networks(engines, averages) as networks:
                validation = validate(stage, networks, data)
                clock.restart(state.step)
                if log:
                    log.write(state.step, {f"val_{key}": value for key, value in validation.items()})
                figure = validation[stage.selection.metric]
                if stage.selection.better(figure, state.best):
                    state.best, state.best_step = figure, state.step
                    best = folder.checkpoints / best_name(state.step)
                    ranks.attempt(partial(write_best, stage.exported(networks), best))
        if isinstance(stage, SampledStage) and stage.samples_due(state.step):
            with evaluation_networks(engines, averages) as networks:
                ranks.attempt(partial(write_samples, stage, networks, data, log, state.step))
            clock.restart(state.step)
        stopping, writing = ranks.any(stop.requested, checkpoints.is_writing)
        if checkpoints.is_pending and not writing:
            checkpoints.commit()
        if state.step % config.checkpoint_every == 0 or last or stopping:
            checkpoints.save(state, engines, averages)
            if last or stopping:
                checkpoints.commit()
            clock.restart(state.step)
        if stopping and not last:
            if log:
                log.close()
            raise Stopped(state.step)

    ranks.attempt(partial(write_export, folder, state))
    if log:
        log.close()


class BadLossError(Exception):
    """A loss that the optimiser must not see; every rank raises it, at the same step."""

    def __init__(self, what: str, step: int, verdict: str, keys: list[str]) -> None:
        super().__init__(f"{what}: the loss {verdict} at step {step}")
        self.step = step
        self.keys = keys
        """Of this rank's segments."""

    def advice(self, skipped: int) -> str:
        """What to tell the user."""
        shown = ", ".join(self.keys[:8])
        more = f" This was bad batch {skipped}." if skipped > 1 else ""
        return (
            f"{self}; this rank's batch began with segments {shown} (bad-batches.jsonl has them all).{more} Lower the "
            "learning rate, look at those segments (`neuroimagen data verify`), or set on_bad_loss=skip."
        )


def train_step(
    stage: Stage,
    engines: Engines,
    batch: Batch,
    seed: int,
    step: int,
    ranks: Ranks,
    watch: LossWatch | None = None,
) -> dict[str, Tensor]:
    """Every phase of one step: loss, backward pass and optimiser step of one network, the others frozen.

    A frozen network is called as a plain module: a DeepSpeed engine that is called but not stepped keeps the
    gradients of another's loss, which is silently wrong on ZeRO 1 and an assertion on ZeRO 2 and 3.

    Raises BadLossError, before the optimiser's step, for a loss that is not finite or, by `watch`, diverges.
    """
    total = stage.global_batch_size
    first = total * ranks.rank // ranks.world_size  # as plan.rank_slice cuts
    config = stage.config
    watch = watch or LossWatch(None, {})
    figures: dict[str, Tensor] = {}

    def check(network: str, loss: HostNumber) -> None:
        verdict = watch.verdict(network, ranks.mean_of(loss.value()))
        if verdict is not None:
            keys = [segment_key(row) for row in batch.rows.tolist()]
            raise BadLossError(f"{stage.name}: {network}", step + 1, verdict, keys)

    for phase in stage.phases:
        others = [engine.module for key, engine in engines.items() if key != phase.network]
        networks = {key: engine.deepspeed if key == phase.network else engine.module for key, engine in engines.items()}
        prefix = "" if len(stage.phases) == 1 else f"{phase.network}_"
        phase_seed = derive_seed(seed, phase.network)
        with Frozen(others):
            for start, part in cut_batch(batch, config.gradient_accumulation):
                random = StepRandom(phase_seed, step, first=first + start, count=len(part), device=batch.eeg.device)
                for engine in engines.values():
                    reseed_dropout(engine.module, random)
                loss, more = phase.loss(networks, part, random)
                number = HostNumber(loss)
                # A batch that is to be left out must leave no gradients; otherwise a GPU need not wait for the check.
                if config.on_bad_loss == "skip":
                    check(phase.network, number)
                engines[phase.network].backward(loss)
                if config.on_bad_loss == "stop":
                    check(phase.network, number)
                engines[phase.network].step()
                for key, value in {f"{prefix}loss": loss.detach(), **more}.items():
                    value = value / config.gradient_accumulation
                    figures[key] = figures[key] + value if key in figures else value
    return figures


def cut_batch(batch: Batch, parts: int) -> Iterator[tuple[int, Batch]]:
    """A batch in `parts` equal blocks, each with the position of its first segment."""
    if parts == 1:
        yield 0, batch
        return
    size = len(batch) // parts
    for start in range(0, size * parts, size):
        block = slice(start, start + size)
        tensors = {
            field.name: value[block]
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        latents = {kind: values[block] for kind, values in batch.latents.items()}
        yield start, dataclasses.replace(batch, latents=latents, **tensors)


def report_bad_batch(error: BadLossError, folder: StageFolder, ranks: Ranks) -> None:
    """Leave the step and the segments of every rank in bad-batches.jsonl. A collective."""
    said = ranks.messages(" ".join(error.keys))
    if ranks.is_first:
        print(f"{error}; its segments are in {folder.bad_batches}", file=sys.stderr, flush=True)
        line = {"step": error.step, "problem": str(error), "segments": [key for keys in said for key in keys.split()]}
        with folder.bad_batches.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def validate(stage: Stage, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
    """The stage's validation figures, with its networks in evaluation mode meanwhile."""
    with evaluation_mode(networks):
        return stage.validate(networks, data)


def write_samples(
    stage: SampledStage, networks: Mapping[str, nn.Module], data: StageData, log: MetricsLog | None, step: int
) -> None:
    """Draw what the stage makes of a few validation segments, and keep it. On rank 0 alone."""
    assert log is not None
    with evaluation_mode(networks):
        log.write_picture(step, draw_samples(stage, networks, data))


def check_resumable(saved: RunState, now: RunState) -> None:
    """Refuse to resume on other data. Another number of ranks is welcome: the global batches stay the same."""
    if saved.data_digest != now.data_digest:
        raise UserError("the data set has changed since the checkpoint was written. Restore it, or start a new run.")


def write_best(network: Any, folder: Path) -> None:
    """Save the best network so far; it replaces what an undone earlier attempt at this step left."""
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        network.save_pretrained(temporary)


def write_export(folder: StageFolder, state: RunState) -> None:
    """Copy the best network to export/, which marks the stage as finished."""
    if folder.is_finished:
        return
    with atomic_folder(folder.export) as temporary:
        shutil.copytree(folder.checkpoints / best_name(state.best_step), temporary, dirs_exist_ok=True)


class Clock:
    """Training speed since the last look; validation and checkpoints are left out by `restart`."""

    def __init__(self, feed: Feed, global_batch_size: int, step: int) -> None:
        self._feed = feed
        self._batch = global_batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step = step
        self._time = time.perf_counter()
        self._waited = self._feed.wait_seconds

    def read(self, step: int) -> dict[str, float]:
        """Segments a second over all ranks, the share of this rank's time spent waiting for data, its peak memory."""
        steps, seconds = step - self._step, time.perf_counter() - self._time
        waited = self._feed.wait_seconds - self._waited
        self.restart(step)
        if steps == 0:
            return {}
        return {
            "segments_per_second": steps * self._batch / seconds,
            "data_wait_share": waited / seconds,
            "memory_gib": peak_memory_gib(),
        }


def peak_memory_gib() -> float:
    """The most this rank has used so far: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / (1 << 30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # Linux counts in KiB
