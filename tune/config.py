"""What a search is: a YAML file, typed and checked before anything starts."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe, all_keys, load_recipe
from neuroimagen.trainer.recipe.strict_config import Schema, Sources, plain
from neuroimagen.trainer.recipe.strict_yaml import read_tree
from neuroimagen.trainer.runs.find_run import require_run
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.space import Parameter, overrides

PICTURE_METRICS = ("two_way_clip", "ssim", "accuracy", "pixcorr")
"""What a guidance search can weigh; each lies between 0 and 1 for pictures that are any good."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What both kinds of search have."""

    kind: ClassVar[str]
    searched_sections: ClassVar[tuple[str, ...]]
    """Sections of the recipe whose keys may be varied."""

    space: dict[str, Parameter]
    """Key of the recipe → its values."""
    sampler: str = "tpe"
    """How settings are proposed (`tune/registry.py`): tpe: by Optuna's tree-structured Parzen estimator. gp: by a
    Gaussian process, for few keys and few trials. random: at random. grid: all of a grid."""
    num_trials: int = 32
    """Settings to try; a grid tries all of its own."""
    startup_trials: int = 10
    """Settings drawn at random before tpe or gp proposes any."""
    seed: int = 0
    """Of the proposals. Trials all train and draw with the recipe's own seeds, so that they compare in pairs."""
    confirm_seeds: int = 3
    """Fresh seeds that the best setting and the default are run with before one is called better; 0: neither is."""
    max_retries: int = 2
    """How often a trial is started again after its worker died."""
    cpus_per_rank: int = 1
    """CPUs, and so threads, of each rank of a trial."""
    gpus_per_rank: float | None = None
    """GPUs of each rank; null: 1 where Ray sees GPUs, else 0. A fraction lets trials share one."""

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("startup_trials", 1), ("confirm_seeds", 0), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.cpus_per_rank < 1 or (self.gpus_per_rank is not None and self.gpus_per_rank < 0):
            raise ValueError("cpus_per_rank must be at least 1, gpus_per_rank at least 0")
        if not self.space:
            raise ValueError("space is empty: name the keys to vary")
        if self.sampler not in SAMPLERS:
            raise ValueError(str(SAMPLERS.unknown(self.sampler)))
        SAMPLERS[self.sampler].check(self)


MARGIN_OBJECTIVES = {
    "knn_accuracy": "share of validation segments whose class has most of their 15 nearest training segments",
    "retrieval_top1": "share of validation segments whose nearest training segment is of the same class",
    "accuracy": "share of validation segments nearest to the centroid of their own class's training segments",
}
"""What a margin search can raise → its definition. The contrastive stage measures all of them at every validation."""


@dataclass(frozen=True, kw_only=True)
class MarginSearch(SearchConfig):
    """A search over the contrastive stage: every trial trains it."""

    kind: ClassVar[str] = "margin"
    searched_sections: ClassVar[tuple[str, ...]] = ("contrastive", "encoder")

    recipe: str
    """The recipe that trials start from, relative to this file. What it says is the default."""
    objective: str = "knn_accuracy"
    """Validation figure to raise (MARGIN_OBJECTIVES)."""
    scheduler: str = "asha"
    """asha: stop trials behind the others, at once. asha_promoting: let every trial rest at a rung, and the best of a
    rung go on from their checkpoints. pbt: population-based training, schedules; trials go on from each
    other's checkpoints. none: every trial to its end."""
    grace_steps: int | None = None
    """asha, asha_promoting: steps that every trial gets. pbt: steps between two exchanges. null: validate_every."""
    reduction_factor: int = 3
    """asha, asha_promoting: of so many trials at a rung, one goes on."""
    num_ranks: int | None = 1
    """Ranks of each trial; null: not said, for a launcher that decides it."""
    launcher: tuple[str, ...] | None = None
    """Words before `train contrastive …` of a trial's command; null: this Python's neuroimagen. For instance
    [neuroimagen, launch, --hostfile, hosts, --]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction_factor < 2 or (self.grace_steps is not None and self.grace_steps < 1):
            raise ValueError("reduction_factor must be at least 2, grace_steps at least 1")
        if self.num_ranks is not None and self.num_ranks < 1:
            raise ValueError(f"num_ranks must be at least 1, got {self.num_ranks}")
        if self.objective not in MARGIN_OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; expected one of {', '.join(MARGIN_OBJECTIVES)}")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(str(SCHEDULERS.unknown(self.scheduler)))
        SCHEDULERS[self.scheduler].check(self)

    @property
    def objectives(self) -> tuple[str, ...]:
        return (self.objective,)


@dataclass(frozen=True, kw_only=True)
class GuidanceSearch(SearchConfig):
    """A search over reconstruction with a trained run: every trial draws pictures of validation segments."""

    kind: ClassVar[str] = "guidance"
    searched_sections: ClassVar[tuple[str, ...]] = ("reconstruct",)

    run: str | None = None
    """The trained run, relative to this file; its recipe is the default. `--run` may give it."""
    objective: dict[str, float] = field(
        default_factory=lambda: {"two_way_clip": 0.4, "accuracy": 0.3, "ssim": 0.3},
    )
    """Metric → weight; the objective is the weighted mean."""
    pareto: tuple[str, str] | None = None
    """Two metrics to raise together instead: the result is their Pareto front."""
    row: Literal["full", "semantic_only"] = "full"
    """The row that is drawn; `reconstruct.semantic` in the space decides the kind of caption."""
    num_segments: int = 96
    """Validation segments that a trial draws, spread evenly over the part."""
    num_reports: int = 1
    """Times that a trial reports on its way through them: with more than one, ASHA stops trials that fall behind."""
    reduction_factor: int = 3
    """Of so many trials at a report, one goes on."""
    confirm_segments: int | None = None
    """Validation segments that the best and the default are drawn for with fresh seeds; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.pareto if self.pareto is not None else tuple(self.objective)
        for name in named:
            if name not in PICTURE_METRICS:
                raise ValueError(f"there is no metric {name!r} to search for; choose of {', '.join(PICTURE_METRICS)}")
        if self.pareto is None and (not self.objective or min(self.objective.values()) <= 0):
            raise ValueError("objective needs at least one metric, and weights above 0")
        if self.pareto is not None and (self.num_reports > 1 or self.pareto[0] == self.pareto[1]):
            raise ValueError("pareto takes two different metrics, and num_reports 1: there is no order to stop by")
        if not 1 <= self.num_reports <= self.num_segments or self.reduction_factor < 2:
            raise ValueError("num_reports must be 1 to num_segments, reduction_factor at least 2")
        for key in self.space:
            if key in ("reconstruct.split", "reconstruct.rows", "reconstruct.seed", "reconstruct.samples"):
                raise ValueError(f"{key} is not for a search to choose")

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.pareto or ("objective",)

    @property
    def scheduler(self) -> str:
        """The scheduler of the trials: ASHA where a trial reports before its end."""
        return "asha" if self.num_reports > 1 else "none"


Search = MarginSearch | GuidanceSearch
KINDS: dict[str, type[MarginSearch] | type[GuidanceSearch]] = {"margin": MarginSearch, "guidance": GuidanceSearch}


def load_search(path: Path | str, kind: str) -> Search:
    """Read a search's YAML file. Raises UserError that names file, key and remedy."""
    path = Path(path)
    return search_of(read_tree(path, noun="search", example="space"), kind, where=str(path))


def search_of(tree: dict[str, Any], kind: str, *, where: str) -> Search:
    """A search from plain values; a list in the space stands for choices. `where`: the file, for messages."""
    space = tree.get("space")
    if isinstance(space, dict):
        tree = tree | {"space": {key: {"choices": v} if isinstance(v, list) else v for key, v in space.items()}}
        _check_space(tree["space"], KINDS[kind].searched_sections, where)
    return Schema[Search](KINDS[kind]).read(tree, Sources(where))


def _check_space(space: dict[Any, Any], sections: Sequence[str], where: str) -> None:
    keys = [key for key in all_keys() if key.partition(".")[0] in sections and "." in key]
    for key, values in space.items():
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.4)
            raise UserError(
                f"{where}: space.{key} is no key of the recipe's {' or '.join(sections)}"
                + (f"; did you mean {close[0]!r}?" if close else ".")
            )
        if not isinstance(values, dict):
            raise UserError(f"{where}: space.{key} is {values!r}; give a list of choices, or low and high.")


def dump_search(search: Search) -> dict[str, Any]:
    """The complete search as plain values that `search_of` takes."""
    tree: dict[str, Any] = plain(search)
    tree["space"] = {
        key: {name: value for name, value in parameter.items() if value is not None and value is not False}
        for key, parameter in tree["space"].items()
    }
    return tree


def default_recipe(search: Search, folder: Path, changes: Sequence[str], *, run: Path | None = None) -> Recipe:
    """The recipe that trials start from. `folder`: of the search's file.

    Raises UserError if there is none, or if the recipe takes no value of a key.
    """
    if isinstance(search, MarginSearch):
        path = folder / search.recipe
    elif run is not None:
        require_run(run)
        path = run / "config.yaml"
    else:
        raise UserError("a guidance search needs a trained run: give --run DIR, or `run:` in its file.")
    recipe = load_recipe(path, changes)
    if recipe.data.path is None:
        raise UserError(f"{path} names no data set. Give it with --set data.path=DIR.")
    for key, parameter in search.space.items():
        problems = []
        for value in (extremes := parameter.extremes()):
            try:
                load_recipe(path, [*changes, *overrides({key: value})])
            except UserError as error:
                problems.append(error)
        # A value may be fit only beside others (a low strength with many steps): such a trial fails alone. A key of
        # which no value is fit is a mistake.
        if len(problems) == len(extremes):
            raise UserError(f"space.{key}: {problems[0]}")
    return recipe
