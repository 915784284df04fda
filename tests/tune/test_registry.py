"""The tables of samplers and schedulers: every name can be imported, and help and docs mention it."""

import dataclasses
from pathlib import Path

import pytest

from neuroimagen.launch import cli
from neuroimagen.launch.commands import tune as command
from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.tune.config import KINDS, AlignmentSearch, MarginSearch, StageSearch
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.samplers.proposals import Proposals
from neuroimagen.tune.schedulers import Scheduler

DOCS = Path(cli.__file__).resolve().parents[1] / "docs" / "how-to" / "tune.md"


def test_what_stands_behind_a_name_is_a_sampler_or_a_scheduler() -> None:
    assert all(issubclass(kind, Proposals) for _, kind in SAMPLERS.items())
    assert all(issubclass(kind, Scheduler) for _, kind in SCHEDULERS.items())


@pytest.mark.parametrize("name", [*SAMPLERS, *SCHEDULERS])
def test_help_and_docs_have_every_name(name: str) -> None:
    assert name in command.EPILOG
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*MarginSearch.definitions, *AlignmentSearch.definitions, *searchable_metrics()])
def test_the_docs_have_every_objective(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


def test_the_default_names_are_in_the_tables() -> None:
    for kind in KINDS.values():
        assert kind.sampler in SAMPLERS
        if issubclass(kind, StageSearch):
            assert kind.scheduler in SCHEDULERS


def test_the_command_line_has_every_kind_of_search() -> None:
    assert tuple(KINDS) == command.KINDS
    assert all(f"neuroimagen tune {kind} " in command.EPILOG for kind in KINDS)
    assert all(f"neuroimagen tune {kind} " in DOCS.read_text(encoding="utf-8") for kind in KINDS)


@pytest.mark.parametrize("kind", [MarginSearch, AlignmentSearch])
def test_a_search_over_a_stage_names_what_the_stage_has(kind: type[StageSearch]) -> None:
    """Its objectives are figures of the stage's validation, and the keys that a population keeps are the stage's."""
    config = STAGES[kind.stage].Config
    assert set(kind.fixed_by_checkpoints) <= {item.name for item in dataclasses.fields(config)}
    assert kind.searched_sections == (kind.stage, "encoder")
    assert kind.objective in kind.definitions
    assert STAGES[kind.stage].selection.metric in kind.definitions
