"""Figures and images to Weights & Biases, for recipes that ask for it. Only then is the package imported."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path

ID_FILE = "wandb-id"


def require_wandb() -> Any:
    """The package. Raises UserError that says how to get it, or how to do without."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            'log.wandb needs the package wandb. Install it (pip install "neuroimagen[wandb]"), or set log.wandb=null.'
        ) from None
    return wandb


class WandbLog:
    """One stage's run at Weights & Biases; a resumed stage goes on with it.

    wandb's own variables (WANDB_MODE=offline, WANDB_ENTITY, …) decide where it goes and whether it is sent. Steps are
    logged as a figure: wandb refuses steps that go back, and a stage resumed from a checkpoint does go back.
    """

    def __init__(self, folder: Path, *, project: str, name: str, recipe: Mapping[str, Any]) -> None:
        """`folder`: the stage's, where wandb keeps its files. Raises UserError when wandb cannot start."""
        self._wandb = require_wandb()
        id_file = folder / ID_FILE
        if not id_file.is_file():
            with atomic_path(id_file) as path:
                path.write_text(uuid.uuid4().hex[:16] + "\n", encoding="utf-8")
        try:
            self._run = self._wandb.init(
                project=project,
                name=name,
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=dict(recipe),
            )
        except Exception as error:  # wandb raises many types of its own
            raise UserError(
                f"Weights & Biases did not start: {error}. Run `wandb login`, or set WANDB_MODE=offline, or "
                "log.wandb=null."
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def write_image(self, step: int, image: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        self._run.log({"step": step, "samples": self._wandb.Image(image)})

    def close(self) -> None:
        self._run.finish()
