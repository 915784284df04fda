"""Which condition is a run's headline: the one that was chosen on validation, else `full`.

`neuroimagen reconstruct` writes the choice (trainer/evaluation/headline/choosing.py makes it); this module reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.reading import read_json_object
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS

OBJECTIVE = "objective"
"""The candidate's weighted mean of metrics, among its figures."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which condition was chosen on validation, and by what: RUN/choice/choice.json."""

    condition: str
    by: Mapping[str, float]
    """Metric → weight of the objective."""
    num_segments: int
    """Validation segments that every candidate drew."""
    num_stimuli: int
    figures: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    """Candidate → metric, and "objective" → value, low, high (a 95 % interval, over stimuli)."""
    settings: Mapping[str, Mapping[str, Any]]
    """Candidate → what its images were drawn with, as manifests have it."""

    def __post_init__(self) -> None:
        if self.condition not in IMAGE_CONDITIONS or self.condition not in self.figures:
            raise ValueError(f"{self.condition!r} is none of the candidates")
        if missing := set(self.figures) - set(self.settings):
            raise ValueError(f"{', '.join(sorted(missing))} have figures, but no settings")
        for name, figures in self.figures.items():
            float(figures[OBJECTIVE]["value"])  # type: ignore[arg-type]  # None raises too, which is what it is for
            if name not in IMAGE_CONDITIONS:
                raise ValueError(f"there is no condition {name!r}")

    @property
    def by_words(self) -> str:
        """The objective in words."""
        return objective_words(self.by)

    @property
    def sentence(self) -> str:
        """How the headline came about, with the figures of the candidates."""
        values = {name: figures[OBJECTIVE]["value"] for name, figures in self.figures.items()}
        ranked = sorted(values, key=lambda name: -(values[name] or 0.0))
        others = ", ".join(f"{name} {values[name]:.3f}" for name in ranked if name != self.condition)
        beside = f"; the other candidates: {others}" if others else "; there was no other candidate"
        return (
            f"The headline is {self.condition}, chosen on the validation split by {self.by_words} on "
            f"{self.num_segments} segments of {self.num_stimuli} stimuli: {values[self.condition]:.3f}{beside}. "
            "Nothing of the test split was read for it."
        )


def objective_words(weights: Mapping[str, float]) -> str:
    """A weighted mean of metrics in words: "0.4 · two_way_clip + 0.3 · accuracy + 0.3 · ssim"."""
    total = sum(weights.values())
    return " + ".join(f"{weight / total:.2g} · {name}" for name, weight in weights.items())


def choice_folder(run: Path) -> Path:
    """Where the choice and the candidates' validation images lie."""
    return run / "choice"


def choice_file(run: Path) -> Path:
    """The file of the choice."""
    return choice_folder(run) / "choice.json"


def read_choice(run: Path) -> Choice | None:
    """The run's choice; None where nothing has been chosen. Raises UserError for a damaged file."""
    path = choice_file(run)
    if not path.is_file():
        return None
    try:
        return Choice(**read_json_object(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is no choice of a headline ({error!r}). Remove it and run `neuroimagen reconstruct` again."
        ) from error


def write_choice(run: Path, choice: Choice) -> None:
    """Write the choice. The file is replaced as a whole, or not at all."""
    with atomic_path(choice_file(run)) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=1, allow_nan=False) + "\n", encoding="utf-8")
