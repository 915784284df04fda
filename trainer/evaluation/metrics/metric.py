"""What a metric declares: its definition, where it is shown, and how it is computed. registry.py has all metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.conditions import Group
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.feature_networks import Offer
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring

Scale = Literal["share", "p", "number"]
IMAGES: frozenset[Group] = frozenset({"model", "ablation", "oracle", "floor", "nuisance"})
"""The groups whose conditions have images."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a figure means and where it is shown. The conditions compute a metric that is not one of images."""

    title: str
    """Heading of its column."""
    definition: str
    """The sentence that is printed with every figure. Words in braces stand for numbers of the evaluation: the keys of
    Scoring.numbers, and `n_images`. The sentence is part of results.json: change it only together with the metric's
    name."""
    scale: Scale = "number"
    """share: 0 to 1, shown as a percentage; p: of a permutation test, shown with four digits; number: anything else."""
    bounds: tuple[float, float] | None = None
    """The least and the most that a figure can be. None: 0 and 1 of a share or p, no bounds of a number."""
    higher_is_better: bool = True
    groups: frozenset[Group] = IMAGES
    """The groups of conditions that have the metric. With "difference": also model minus class caption only."""
    in_main_table: bool = False
    """Whether report.md, the LaTeX table, the terminal, the figures per subject, comparisons of runs and the first view
    of the page's table show it. The page's full table has every metric."""
    needs: Offer | None = None
    """What the evaluation must have for it, of the classifier or of a preset's networks; one without that leaves the
    metric out."""
    chance: Callable[[Scoring], float | None] | None = None
    """The figure of guessing; None where there is none."""

    def define(self, numbers: Mapping[str, object]) -> str:
        """The definition with an evaluation's numbers. Raises UserError for a word in braces that `numbers` lacks."""
        try:
            return self.definition.format(**numbers)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"the definition of the metric {self.title!r} cannot be filled in ({type(error).__name__}: {error}). "
                f"Words in braces must be among {', '.join(sorted(numbers))}."
            ) from error

    @property
    def is_share(self) -> bool:
        """Whether the figure is shown as a percentage."""
        return self.scale == "share"

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that a figure can be."""
        if self.bounds is not None:
            return self.bounds
        return (float("-inf"), float("inf")) if self.scale == "number" else (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ImageMetric(Metric):
    """A metric of single images. A condition's figure is the mean over segments, its interval drawn over stimuli."""

    compute: Callable[[Comparison], Floats | None]
    """One value per image, float64 [N] (NaN: the image has none); None where the evaluation's settings allow none."""
    ranks_examples: bool = False
    """Whether the page captions images with it, sorts by it, and counts it in the rank of best, median and worst."""
    searchable: bool = False
    """Whether a guidance search may have it as an objective, which it raises."""

    def __post_init__(self) -> None:
        if self.searchable and not self.higher_is_better:
            raise ValueError(f"the metric {self.title!r} cannot be searchable: a search raises what should be lowered")


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A metric of all images of a condition together."""

    compute: Callable[[Comparison], Estimate | None]
    """The figure with its interval, if it has one; None for too few images."""


@dataclass(frozen=True, kw_only=True)
class PermutationTest(Metric):
    """A permutation test over stimuli, of the images of a condition."""

    compute: Callable[[Comparison], float]
    """The p-value."""
