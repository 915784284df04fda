"""The configuration of a search: a YAML file, whose types and values are checked before anything starts."""

import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.evaluation.scoring.objective import unknown_metrics
from neuroimagen.trainer.recipe.recipe import Recipe, all_recipe_keys, load_recipe, recipe_tree
from neuroimagen.trainer.recipe.strict_config import Schema, Sources, plain
from neuroimagen.trainer.recipe.strict_yaml import read_tree
from neuroimagen.trainer.reconstruction.conditions import headline_conditions
from neuroimagen.trainer.reconstruction.config import DEFAULT_OBJECTIVE
from neuroimagen.trainer.runs.find_run import require_run
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.space import CONDITION, Parameter, Value, overrides, value_at


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The keys that all kinds of search have."""

    kind: ClassVar[str]
    searched_sections: ClassVar[tuple[str, ...]]
    """Sections of the recipe whose keys may be varied."""
    own_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the space that are not the recipe's."""

    space: dict[str, Parameter]
    """Key of the recipe → its values."""
    sampler: str = "tpe"
    """How settings are proposed (`tune/registry.py`): tpe: by Optuna's tree-structured Parzen estimator. gp: by a
    Gaussian process, for few keys and few trials. random: at random. grid: all of a grid."""
    num_trials: int = 32
    """Settings to try; a grid tries all of its settings, whatever this says."""
    startup_trials: int = 10
    """Settings that are drawn at random before tpe or gp proposes one."""
    seed: int = 0
    """Seed of the proposals. All trials train and draw with the recipe's own seeds, so that they can be compared in
    pairs."""
    confirm_seeds: int = 3
    """Number of new seeds with which the best setting and the default are run again after the search. 0: they are not
    compared; 1: their difference has no interval, so it confirms nothing."""
    max_retries: int = 2
    """How often a trial is started again after its worker process was lost."""
    cpus_per_rank: int = 1
    """CPUs, and so threads, of each rank of a trial."""
    gpus_per_rank: float | None = None
    """GPUs of each rank; null: 1 where Ray finds GPUs, else 0. With a fraction several trials share one GPU."""

    def __post_init__(self) -> None:
        require_finite(self)
        for name, least in (("num_trials", 1), ("startup_trials", 1), ("confirm_seeds", 0), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.cpus_per_rank < 1 or (self.gpus_per_rank is not None and self.gpus_per_rank < 0):
            raise ValueError("cpus_per_rank must be at least 1, gpus_per_rank at least 0")
        if not self.space:
            raise ValueError("space is empty. Name the keys to vary, each with its values")
        if self.sampler not in SAMPLERS:
            raise ValueError(str(SAMPLERS.unknown(self.sampler)))
        SAMPLERS[self.sampler].check(self)


@dataclass(frozen=True, kw_only=True)
class StageSearch(SearchConfig):
    """A search over the settings of one stage: every trial trains it. A subclass names the stage and its figures."""

    stage: ClassVar[str]
    definitions: ClassVar[Mapping[str, str]]
    """Validation figure of the stage that can be the objective → its definition."""
    fixed_by_checkpoints: ClassVar[tuple[str, ...]]
    """Keys of the stage's section that population-based training cannot change: a checkpoint holds a position in a plan
    of these sizes, and weights and optimiser of these networks."""

    recipe: str
    """The recipe that trials start from, relative to this file. Its values are the default setting."""
    objective: str
    """Validation figure to maximise, one of `definitions`."""
    scheduler: str = "asha"
    """When trials stop (`tune/registry.py`); a rung is a number of steps at which trials are compared. asha: a trial
    that is behind at a rung is stopped for good. asha_promoting: every trial is paused at a rung, and the best of the
    rung continue from their checkpoints. pbt: population-based training; a trial that is behind continues from a copy
    of a better trial's checkpoint, with a changed setting. none: every trial runs to its end."""
    grace_steps: int | None = None
    """asha, asha_promoting: steps that every trial may train, the first rung. pbt: steps after which trials are
    compared. null: the stage's validate_every."""
    reduction_factor: int = 3
    """asha, asha_promoting: one of this many trials at a rung continues."""
    num_ranks: int | None = 1
    """Ranks of each trial; null: the option is left out, for a launcher that decides the number."""
    launcher: tuple[str, ...] | None = None
    """What stands before `train STAGE …` in a trial's command, for instance
    [neuroimagen, launch, --hostfile, hosts, --]. null: the neuroimagen of this Python."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction_factor < 2 or (self.grace_steps is not None and self.grace_steps < 1):
            raise ValueError("reduction_factor must be at least 2, grace_steps at least 1")
        if self.num_ranks is not None and self.num_ranks < 1:
            raise ValueError(f"num_ranks must be at least 1, got {self.num_ranks}")
        if self.objective not in self.definitions:
            raise ValueError(f"objective is {self.objective!r}; expected one of {', '.join(self.definitions)}")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(str(SCHEDULERS.unknown(self.scheduler)))
        SCHEDULERS[self.scheduler].check(self)
        for key in self.space:
            if (parent := key.rpartition(".")[0]) in self.space:
                raise ValueError(f"space has both {parent} and {key}, which is a part of it; vary one of them")

    @property
    def objectives(self) -> tuple[str, ...]:
        return (self.objective,)


@dataclass(frozen=True, kw_only=True)
class MarginSearch(StageSearch):
    """A search over the contrastive stage."""

    kind: ClassVar[str] = "margin"
    stage: ClassVar[str] = "contrastive"
    searched_sections: ClassVar[tuple[str, ...]] = ("contrastive", "encoder")
    definitions: ClassVar[Mapping[str, str]] = {
        "knn_accuracy": "share of validation segments whose class has most of their 15 nearest training segments",
        "retrieval_top1": "share of validation segments whose nearest training segment is of the same class",
        "accuracy": "share of validation segments nearest to the centroid of their own class's training segments",
    }
    fixed_by_checkpoints: ClassVar[tuple[str, ...]] = ("num_classes", "num_samples", "steps")

    objective: str = "knn_accuracy"


@dataclass(frozen=True, kw_only=True)
class AlignmentSearch(StageSearch):
    """A search over the alignment stage."""

    kind: ClassVar[str] = "alignment"
    stage: ClassVar[str] = "alignment"
    searched_sections: ClassVar[tuple[str, ...]] = ("alignment", "encoder")
    definitions: ClassVar[Mapping[str, str]] = {
        "mrr": "mean of 1 / rank of a validation segment's stimulus among the stimuli of the validation split",
        "top1": "share of validation segments whose stimulus is the nearest of those of the validation split",
        "top5": "share of validation segments whose stimulus is among the nearest five of the validation split",
        "two_way": "mean share of the validation split's other stimuli that are less similar than the segment's own",
    }
    fixed_by_checkpoints: ClassVar[tuple[str, ...]] = (
        *("batch_size", "repetitions", "order", "steps", "targets", "centre_targets", "head"),
        *("logit_scale", "learn_logit_scale", "initialise_from", "finetune_encoder"),
    )

    objective: str = "mrr"


@dataclass(frozen=True, kw_only=True)
class GuidanceSearch(SearchConfig):
    """A search over reconstruction with a trained run: every trial reconstructs validation segments."""

    RENAMED: ClassVar[Mapping[str, str]] = {"row": "condition"}
    kind: ClassVar[str] = "guidance"
    searched_sections: ClassVar[tuple[str, ...]] = ("reconstruct",)
    own_keys: ClassVar[tuple[str, ...]] = (CONDITION,)

    run: str | None = None
    """The trained run, relative to this file; its recipe is the default setting. `--run` can give it instead."""
    objective: dict[str, float] = field(
        default_factory=lambda: dict(DEFAULT_OBJECTIVE),
    )
    """Metric → weight; the objective is the weighted mean."""
    pareto: tuple[str, str] | None = None
    """Two metrics to maximise together, in place of `objective`: the result is their Pareto front."""
    condition: str = "full"
    """The condition under which images are reconstructed, one that is drawn from the EEG alone; `reconstruct.semantic`
    in the space decides the kind of caption. `condition` in the space is a list of conditions to choose among, which
    differ in the start and in what conditions the U-Net; this one is then the default's."""
    num_segments: int = 96
    """Validation segments that a trial reconstructs, spread evenly over the split."""
    num_reports: int = 1
    """Number of reports that a trial gives while it reconstructs them. With more than one, ASHA stops trials that are
    behind."""
    reduction_factor: int = 3
    """One of this many trials continues after a report."""
    confirm_segments: int | None = None
    """Validation segments that are reconstructed under the best setting and the default with new seeds; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.pareto if self.pareto is not None else tuple(self.objective)
        if (problem := unknown_metrics(named)) is not None:
            raise ValueError(problem)
        in_space = self.space.get(CONDITION)
        if in_space is not None and in_space.choices is None:
            raise ValueError("space.condition is a list of conditions, not a range")
        for condition in (self.condition, *((in_space.choices or ()) if in_space is not None else ())):
            if condition not in headline_conditions():
                raise ValueError(
                    f"condition {condition!r} is none that is drawn from the EEG alone; choose among "
                    f"{', '.join(headline_conditions())}"
                )
        if self.pareto is None and (not self.objective or min(self.objective.values()) <= 0):
            raise ValueError("objective needs at least one metric, and weights above 0")
        if self.pareto is not None and (self.num_reports > 1 or self.pareto[0] == self.pareto[1]):
            raise ValueError("pareto takes two different metrics, and num_reports 1: two figures give trials no order")
        if not 1 <= self.num_reports <= self.num_segments or self.reduction_factor < 2:
            raise ValueError("num_reports must be 1 to num_segments, reduction_factor at least 2")
        for key in self.space:
            if key in _FIXED or key.startswith("reconstruct.choose"):
                raise ValueError(f"{key} cannot be varied by a search")

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.pareto or ("objective",)

    @property
    def scheduler(self) -> str:
        """The scheduler of trials: ASHA where a trial reports before its end."""
        return "asha" if self.num_reports > 1 else "none"


_FIXED = tuple(
    f"reconstruct.{name}" for name in ("split", "conditions", "side_segments", "seed", "samples", "dtype", "compile")
)
"""Keys that all trials of a guidance search share: they decide what is measured, and which networks a worker holds."""
Search = StageSearch | GuidanceSearch
KINDS: dict[str, type[MarginSearch] | type[AlignmentSearch] | type[GuidanceSearch]] = {
    search.kind: search for search in (MarginSearch, AlignmentSearch, GuidanceSearch)
}
"""Kind of search, as the command line names it → its configuration."""


def load_search(path: Path | str, kind: str) -> Search:
    """Read a search's YAML file. Raises UserError that names file, key and remedy."""
    path = Path(path)
    return search_of(read_tree(path, noun="search", example="space"), kind, where=str(path))


def search_of(tree: dict[str, Any], kind: str, *, where: str) -> Search:
    """The search that plain values describe. A list in the space stands for choices. where: the file, for messages."""
    space = tree.get("space")
    if isinstance(space, dict):
        tree = tree | {"space": {key: {"choices": v} if isinstance(v, list) else v for key, v in space.items()}}
        _check_space(tree["space"], KINDS[kind].searched_sections, where, own_keys=KINDS[kind].own_keys)
    return Schema[Search](KINDS[kind]).read(tree, Sources(where))


def _check_space(space: dict[Any, Any], sections: Sequence[str], where: str, *, own_keys: Sequence[str] = ()) -> None:
    keys = [*own_keys]
    keys += [key for key in all_recipe_keys() if key.partition(".")[0] in sections and "." in key]
    mappings = mapping_keys(sections)
    for key, values in space.items():
        if key not in keys and str(key).rpartition(".")[0] not in mappings:
            close = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.4)
            raise UserError(
                f"{where}: space.{key} is not a key of the recipe's section {' or '.join(sections)}"
                + (f"; did you mean {close[0]!r}?" if close else ".")
            )
        if not isinstance(values, dict):
            raise UserError(f"{where}: space.{key} is {values!r}; give a list of choices, or low and high.")


def mapping_keys(sections: Sequence[str]) -> list[str]:
    """The keys of stages' sections that map free names to numbers, as alignment.targets: space may name a key below."""
    found = []
    for section in set(sections) & set(STAGES.names()):
        hints = typing.get_type_hints(STAGES[section].Config)
        found += [f"{section}.{name}" for name, hint in hints.items() if typing.get_origin(hint) is Mapping]
    return found


def dump_search(search: Search) -> dict[str, Any]:
    """The complete search as plain values that `search_of` takes."""
    tree: dict[str, Any] = plain(search)
    tree["space"] = {
        key: {name: value for name, value in parameter.items() if value is not None and value is not False}
        for key, parameter in tree["space"].items()
    }
    return tree


def default_value(search: Search, recipe: Recipe, key: str) -> Value:
    """What the default setting has for a key of the space."""
    if key in search.own_keys:
        assert isinstance(search, GuidanceSearch)  # whose only own key is the condition
        return search.condition
    found: Value = value_at(recipe_tree(recipe), key)
    return found


def default_recipe(search: Search, folder: Path, changes: Sequence[str], *, run: Path | None = None) -> Recipe:
    """The recipe that trials start from. `folder`: that of the search's file. `changes`: overrides, key=value.

    Raises UserError if there is no such recipe, or if none of the values of a key is valid in it.
    """
    if isinstance(search, StageSearch):
        path = folder / search.recipe
    elif run is not None:
        require_run(run)
        path = run / "config.yaml"
    else:
        raise UserError("a guidance search needs a trained run. Give --run DIR, or `run:` in its file.")
    recipe = load_recipe(path, changes)
    if recipe.data.path is None:
        raise UserError(f"{path} names no data set. Give it with --set data.path=DIR.")
    tree, mappings = recipe_tree(recipe), mapping_keys(search.searched_sections)
    for key, parameter in search.space.items():
        section, _, name = key.rpartition(".")
        if section in mappings and name not in (named := value_at(tree, section)):
            raise UserError(
                f"space.{key}: the recipe's {section} names {', '.join(named)}, not {name}. Name it in {path}; its "
                "value there is the default."
            )
        problems = []
        for value in (extremes := parameter.extremes()):
            try:
                load_recipe(path, [*changes, *overrides({key: value})])
            except UserError as error:
                problems.append(error)
        # A value may be valid only together with others (a low strength with many steps): such a trial fails by itself.
        # A key without a single valid value is a mistake.
        if len(problems) == len(extremes):
            raise UserError(f"space.{key}: {problems[0]}")
    return recipe
