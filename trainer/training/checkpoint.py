"""Checkpoints: written in the background, committed as a whole or not at all, verified before use.

    checkpoints/latest                  name of the newest complete one, replaced atomically
    checkpoints/step-00000100/
        COMPLETE                        written last: every file and its size
        state.json                      step, best validation figure, what the run was
        <network>/pieces-<rank>…        weights and optimiser (engine_state.py): any number of ranks reads them
        <network>/rest.safetensors      buffers and frozen weights
        ema-<network>.safetensors       the averaged weights, where the recipe asks for them
        random-<rank>.safetensors       each rank's generator states
    checkpoints/best-00000080/          export of the best validation figure so far

`save` copies the state and returns; a thread of each rank writes that rank's files. `commit`, when all ranks have
written, makes the checkpoint the newest and deletes older ones. No file is a pickle.
"""

import dataclasses
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, sync_path
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.trainer.training.checkpoint_folder import (
    RunState,
    best_name,
    latest_checkpoint,
    mark_complete,
    read_state,
    steps_in,
)
from neuroimagen.trainer.training.engines import engine_state
from neuroimagen.trainer.training.engines.deepspeed_adapter import num_elements
from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Engine, Engines
from neuroimagen.trainer.training.process_group import ProcessGroup


class Checkpoints:
    """The checkpoints of one stage of one run."""

    def __init__(self, folder: Path, *, group: ProcessGroup, keep: int) -> None:
        self.folder = folder
        self._group = group
        self._keep = keep
        self._pending: _Writing | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint waits to be committed; the same on every rank."""
        return self._pending is not None

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still writing its files."""
        return self._pending is not None and self._pending.thread.is_alive()

    def save(self, state: RunState, engines: Engines, averages: Mapping[str, EMA]) -> None:
        """Begin a checkpoint, after committing one that is still pending. A collective.

        Raises UserError on every rank, with the older checkpoints untouched, when the disk has too little room.
        """
        if self.is_pending:
            self.commit()
        state.engines = {
            name: {"step": engine_state.optimizer_step(engine), "scaler": _scaler_state(engine)}
            for name, engine in engines.items()
        }
        unfinished = self.folder / f".step-{state.step:08d}.part"
        try:
            self._group.attempt(lambda: self._begin(unfinished, engines))
        except UserError as error:
            self._refuse(unfinished, state.step, str(error))
        files: dict[str, dict[str, Tensor]] = {}
        rank = self._group.rank
        for name, engine in engines.items():
            files |= {f"{name}/{file}": kept for file, kept in engine_state.snapshot(engine, rank=rank).items()}
        files[f"random-{rank:05d}.safetensors"] = _random_states()
        for name, average in averages.items():
            averaged = engine_state.snapshot_average(engines[name], average, rank=rank)
            if averaged:
                files[f"ema-{name}.safetensors"] = averaged
        self._pending = _Writing(unfinished, json.loads(json.dumps(dataclasses.asdict(state))), files)

    def commit(self) -> None:
        """Wait until every rank has written, then make the pending checkpoint the newest, and delete those beyond
        `keep`. A collective. Raises UserError on every rank, with the older ones untouched, when writing failed.
        """
        pending = self._pending
        assert pending is not None
        self._pending = None
        pending.thread.join()
        step = int(pending.state["step"])
        failures = self._group.messages(pending.problem)
        if failures:
            self._refuse(pending.unfinished, step, failures[0])
        try:
            self._group.attempt(lambda: self._commit(pending, f"step-{step:08d}"))
        except UserError as error:
            self._refuse(pending.unfinished, step, str(error))
        if self._group.is_first:
            self._rotate(step)

    def _refuse(self, unfinished: Path, step: int, problem: str) -> None:
        if self._group.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
        previous = latest_checkpoint(self.folder)
        kept = f"{previous.name} is complete" if previous else "No earlier one exists"
        raise UserError(
            f"the checkpoint of step {step} could not be written to {self.folder}: {problem} {kept}; free space and "
            "go on with --resume."
        ) from None

    def _begin(self, unfinished: Path, engines: Engines) -> None:
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in engines:
            (unfinished / name).mkdir(parents=True)
        # Weights, two Adam moments and an average, in float32. Checked before anything is written.
        needed = 16 * sum(num_elements(p) for engine in engines.values() for p in engine.module.parameters())
        free = shutil.disk_usage(unfinished).free
        if free < needed:
            raise UserError(f"it takes up to {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free.")

    def _commit(self, pending: "_Writing", name: str) -> None:
        unfinished = pending.unfinished
        (unfinished / "state.json").write_text(json.dumps(pending.state, indent=1), encoding="utf-8")
        mark_complete(unfinished)
        final = self.folder / name
        shutil.rmtree(final, ignore_errors=True)  # of an earlier attempt at these steps
        unfinished.replace(final)
        sync_path(self.folder)
        with atomic_path(self.folder / "latest") as path:
            path.write_text(name + "\n", encoding="utf-8")

    def _rotate(self, step: int) -> None:
        complete = [path for path in steps_in(self.folder) if path.name <= f"step-{step:08d}"]
        for path in complete[: -self._keep]:
            shutil.rmtree(path, ignore_errors=True)
        needed = {best_name(read_state(path).best_step) for path in complete[-self._keep :]}
        for path in self.folder.glob("best-*"):
            if path.name not in needed and path.name <= best_name(step):  # a later one is the running state's
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)

    def load(self, path: Path, engines: Engines, averages: Mapping[str, EMA]) -> RunState:
        """Bring engines, averages and random states to where `path` left them, whatever number of ranks wrote it."""
        state = read_state(path)
        with content_of(f"read {path}", remedy="Remove it, and go on with --resume from the one before."):
            self._restore(path, state, engines, averages)
        state.world_size = self._group.world_size
        return state

    def _restore(self, path: Path, state: RunState, engines: Engines, averages: Mapping[str, EMA]) -> None:
        for name, engine in engines.items():
            engine_state.restore(engine, path / name, step=state.engines[name]["step"])
            scaler = engine_state.scaler_of(engine)
            if scaler is not None and state.engines[name]["scaler"]:
                scaler.load_state_dict(state.engines[name]["scaler"])
        for name, average in averages.items():
            engine_state.restore_average(engines[name], average, path / f"ema-{name}.safetensors")
        random = path / f"random-{self._group.rank:05d}.safetensors"
        if random.is_file():  # absent for a rank that was not there; training draws by step and sample, not from these
            _set_random_states(load_file(random))


class _Writing:
    """This rank's files of a checkpoint, written by a thread."""

    def __init__(self, unfinished: Path, state: dict[str, Any], files: Mapping[str, dict[str, Tensor]]) -> None:
        self.unfinished = unfinished
        self.state = state
        self.problem: str | None = None
        self._files = files
        self.thread = threading.Thread(target=self._write, name="neuroimagen-checkpoint")
        self.thread.start()

    def _write(self) -> None:
        try:
            for name, tensors in self._files.items():
                path = self.unfinished / name
                save_file(tensors, path)
                sync_path(path)
        except Exception as error:  # safetensors raises its own type on a full disk; commit() raises it on every rank
            self.problem = f"{getattr(error, 'strerror', None) or error}."


def _scaler_state(engine: Engine) -> dict[str, Any] | None:
    scaler = engine_state.scaler_of(engine)
    return None if scaler is None else dict(scaler.state_dict())


def _random_states() -> dict[str, torch.Tensor]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
