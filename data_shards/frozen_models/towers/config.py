"""What a user says of an image tower: its folder, and of which view which states become the embedding."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Pool = Literal["projection", "cls", "mean"]
View = Literal["fovea", "blur", "noise", "low-resolution", "mosaic", "mean-of-four"]


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """An image tower in one configuration. The name that it is given is its kind of latent."""

    path: str | None = None
    """The tower's folder; null: the model folder."""
    tower: str | None = None
    """A tower of the registry; null: that of the kind's own name, else the one that reads what the folder holds."""
    layer: float | None = None
    """Depth in (0, 1] of the transformer block whose states are taken, as they leave it: 0.67 of 12 blocks is the 8th.
    null: after the last block and the final norm.
    """
    pool: Pool | None = None
    """projection: the network's own embedding of the image; cls: the class token; mean: of the patch tokens. null: the
    tower's first.
    """
    size_px: int | None = None
    """Side of the square that the network reads; null: the network's own."""
    view: View | None = None
    """What the image goes through before it is encoded (towers/views.py); null: nothing."""

    def __post_init__(self) -> None:
        if self.layer is not None and not 0 < self.layer <= 1:
            raise ValueError(f"layer is a depth in (0, 1], for instance 0.67; got {self.layer}")
        if self.size_px is not None and not 8 <= self.size_px <= 4096:
            raise ValueError(f"size_px must lie in [8, 4096], got {self.size_px}")

    @property
    def folder(self) -> Path | None:
        return None if self.path is None else Path(self.path).expanduser()

    def given(self) -> dict[str, str | float | int]:
        """The settings that are not null, but the path."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "path"}
        return {name: value for name, value in values.items() if value is not None}

    def words(self, name: str) -> str:
        """What `cache --towers` takes for this configuration under `name`."""
        settings = ",".join(f"{key}={value}" for key, value in self.given().items())
        return f"{name}={self.path or ''}" + (f":{settings}" if settings else "")
