"""The checkpoints that a folder holds: which are complete, and the newest that training can go on from.

What the folders hold is described in checkpoint.py, which writes them. A folder may have been cut short by a full disk,
copied halfway, or edited: what is not sound is named, and the next good one is taken.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.reading import held_inside, read_json_object, read_text, reason, require_file

STATE_VERSION = 2
MAX_STATE_BYTES = 64 << 20
"""Of state.json, COMPLETE and `latest`."""


@dataclasses.dataclass
class RunState:
    """The state of a run apart from weights, optimiser and random states."""

    step: int = 0
    """Steps done. The plan's position follows from it: epoch, step = divmod(step, steps_per_epoch)."""
    best: float | None = None
    """Best validation figure so far."""
    best_step: int | None = None
    world_size: int = 1
    data_digest: str = ""
    engines: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Network → the optimiser's steps, and the loss scaler's state in fp16."""
    recent_losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Network → its last losses, which a new one is compared with (trainer/training/loss_watch.py)."""
    recent_figures: list[float] = dataclasses.field(default_factory=list)
    """The last validations' figures that select, the newest last (`select: smoothed`)."""
    skipped: int = 0
    """Steps left out by `on_bad_loss: skip`."""
    version: int = STATE_VERSION


def best_name(step: int | None) -> str:
    return f"best-{step or 0:08d}"


def steps_in(folder: Path) -> list[Path]:
    """The folders of checkpoints in `folder`, complete or not, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def latest_checkpoint(folder: Path, *, not_beyond: int | None = None) -> Path | None:
    """The newest complete checkpoint in `folder`, or None. `latest` counts only if the checkpoint it names is complete.

    not_beyond: the newest of those that have made at most this many steps.
    """
    paths = steps_in(folder)[::-1]
    if not_beyond is not None:
        paths = [path for path in paths if path.name <= f"step-{not_beyond:08d}"]
    elif (named := _named_by_latest(folder)) in paths:
        paths.insert(0, named)
    return next((path for path in paths if _problem(path) is None), None)


def unusable_checkpoints(folder: Path) -> list[str]:
    """A sentence for each checkpoint that is newer than the one that training goes on from, and why it is not used."""
    newest = latest_checkpoint(folder)
    if newest is not None and newest == _named_by_latest(folder):
        return []
    instead = f"training goes on from {newest.name}" if newest else "training begins again"
    newer = [path for path in steps_in(folder) if newest is None or path.name > newest.name]
    found = [f"{path} is not used: {_problem(path)}; {instead}." for path in newer]
    if not found and (folder / "latest").exists():
        found = [f"{folder / 'latest'} does not name the newest checkpoint; {instead}."]
    return found


def _named_by_latest(folder: Path) -> Path | None:
    """The checkpoint that `latest` names; None where it is missing or names none."""
    try:
        name = read_text(folder / "latest", limit=MAX_STATE_BYTES).strip()
    except (OSError, ValueError):
        return None
    return folder / name if re.fullmatch(r"step-\d{8}", name) else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    return [path for path in steps_in(folder) if _problem(path) is None]


def copy_checkpoint(source: Path, folder: Path) -> Path:
    """Copy a complete checkpoint to the checkpoints of another run, which goes on from it; returns the copy's path.

    The other run has other settings, so its best validation figure is not that of this one.
    """
    target = folder / source.name
    shutil.copytree(source, target)
    state = dataclasses.replace(read_state(target), best=None, best_step=None, recent_figures=[])
    (target / "state.json").write_text(json.dumps(dataclasses.asdict(state), indent=1), encoding="utf-8")
    (target / "COMPLETE").unlink()
    mark_complete(target)
    (folder / "latest").write_text(f"{source.name}\n", encoding="utf-8")
    return target


def mark_complete(folder: Path) -> None:
    """Write COMPLETE, with every file and its size: a checkpoint that has it, and agrees with it, is complete."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    with atomic_path(folder / "COMPLETE") as path:
        path.write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def _problem(path: Path) -> str | None:
    """What keeps training from going on from a checkpoint, as a clause; None where nothing does.

    A checkpoint of another version is no damage: `read_state` refuses it, and no older one takes its place.
    """
    try:
        sizes = read_json_object(path / "COMPLETE", limit=MAX_STATE_BYTES)
        if not sizes or "state.json" not in sizes:
            return "its COMPLETE lists no state.json"
        for name, size in sizes.items():
            if held_inside(path, name).stat().st_size != size:
                return f"{name} has another size than its COMPLETE says"
        for weights in sorted(path.rglob("*.safetensors")):
            with safe_open(require_file(weights), framework="pt"):  # reads the header
                pass
        fields = read_json_object(path / "state.json", limit=MAX_STATE_BYTES)
        if fields.get("version") == STATE_VERSION:
            _state(fields)
    except (OSError, ValueError, SafetensorError) as error:
        return f"it is damaged ({reason(error)})"
    return None


def read_state(path: Path) -> RunState:
    """The state of a complete checkpoint. Raises UserError where it is damaged or of another version."""
    try:
        fields = read_json_object(path / "state.json", limit=MAX_STATE_BYTES)
        if fields.get("version") == STATE_VERSION:
            return _state(fields)
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'state.json'} is damaged: {reason(error)}. Remove {path}.") from None
    raise UserError(
        f"{path} has state version {str(fields.get('version'))[:20]}; this neuroimagen reads {STATE_VERSION}."
    )


def _state(fields: dict[str, Any]) -> RunState:
    """The state that an object describes. Raises ValueError naming the first field that is missing, unknown or odd."""
    known = {field.name for field in dataclasses.fields(RunState)}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(f"field {unknown[0]!r} is unknown")
    if "step" not in fields:  # the others came later
        raise ValueError("field 'step' is missing")
    state = RunState(**fields)
    is_sound = {
        "step": _is_count(state.step),
        "best": state.best is None or type(state.best) in (int, float),
        "best_step": state.best_step is None or _is_count(state.best_step),
        "world_size": _is_count(state.world_size),
        "data_digest": isinstance(state.data_digest, str),
        "engines": isinstance(state.engines, dict)
        and all(
            isinstance(engine, dict) and _is_count(engine.get("step")) and isinstance(engine.get("scaler"), dict | None)
            for engine in state.engines.values()
        ),
        "recent_losses": isinstance(state.recent_losses, dict)
        and all(
            isinstance(losses, list) and all(type(loss) in (int, float) for loss in losses)
            for losses in state.recent_losses.values()
        ),
        "recent_figures": isinstance(state.recent_figures, list)
        and all(type(figure) in (int, float) for figure in state.recent_figures),
        "skipped": _is_count(state.skipped),
    }
    if wrong := [name for name, sound in is_sound.items() if not sound]:
        raise ValueError(f"{wrong[0]} is {str(fields[wrong[0]])[:80]}")
    return state


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
