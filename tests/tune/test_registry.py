"""The tables of samplers and schedulers: every name can be imported, and help and docs mention it."""

from pathlib import Path

import pytest

from neuroimagen.launch import cli
from neuroimagen.launch.commands import tune as command
from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.tune.config import MARGIN_OBJECTIVES, MarginSearch
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.samplers.proposals import Proposals
from neuroimagen.tune.schedulers import Scheduler

DOCS = Path(cli.__file__).resolve().parents[1] / "docs" / "tune.md"


def test_what_stands_behind_a_name_is_a_sampler_or_a_scheduler() -> None:
    assert all(issubclass(kind, Proposals) for _, kind in SAMPLERS.items())
    assert all(issubclass(kind, Scheduler) for _, kind in SCHEDULERS.items())


@pytest.mark.parametrize("name", [*SAMPLERS, *SCHEDULERS])
def test_help_and_docs_have_every_name(name: str) -> None:
    assert name in command.EPILOG
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*MARGIN_OBJECTIVES, *searchable_metrics()])
def test_the_docs_have_every_objective(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")


def test_the_default_names_are_in_the_tables() -> None:
    assert MarginSearch.sampler in SAMPLERS
    assert MarginSearch.scheduler in SCHEDULERS
