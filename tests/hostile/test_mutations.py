"""Mutated files of every kind that neuroimagen reads: one line of error or an answer, in bounded time and memory.

    pytest tests/hostile/test_mutations.py -m "slow or not slow"     all 10,000
    NEUROIMAGEN_MUTATIONS=50000 pytest …                             others: those from this number on

The kinds of files are in tests/support/: mutations.py, mutated_commands.py, mutated_models.py. The changes are in
mutated_content.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mutation_corpus
import mutations
import pytest
import simulated_run

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig

QUICK, ALL, PIECE = 200, 10_000, 1000
FIRST = int(os.environ.get("NEUROIMAGEN_MUTATIONS", "0"))
QUICK_KINDS = ("data", "latents", "run", "checkpoints", "export", "recipe", "search", "hostfile", "arrays")
"""Kinds that take milliseconds."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_dataset_folder: Path, tiny_diffusion_folder: Path) -> Path:
    return mutation_corpus.build_corpus(tmp_path_factory.mktemp("corpus"), tiny_dataset_folder, tiny_diffusion_folder)


@pytest.fixture(scope="module")
def whole_corpus(corpus: Path, tiny_diffusion_folder: Path) -> Path:
    """The corpus with everything that only whole commands read."""
    mutation_corpus.add_commands(corpus, tiny_diffusion_folder)
    scenes = simulated_run.write_dataset(corpus / "evaluated-data")
    run = simulated_run.write_run(corpus / "evaluated", corpus / "evaluated-data", scenes)
    classifier, clip = (str(tiny_diffusion_folder / name) for name in ("classifier", "clip"))
    config = EvaluateConfig(classifier=classifier, clip=clip, num_resamples=100)
    evaluate_run(run, Dataset.open(corpus / "evaluated-data"), config)
    return corpus


def wrong_of(corpus: Path, first: int, last: int, kinds: tuple[str, ...] = ()) -> list[str]:
    """Run mutations in a process of their own, which a crash ends without ending this one; what was wrong with each."""
    done = subprocess.run(
        [sys.executable, mutations.__file__, str(corpus), str(first), str(last), *kinds],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + (last - first) * mutations.SECONDS,
    )
    at = (corpus / "progress").read_text() if (corpus / "progress").is_file() else "the start"
    assert done.returncode == 0, f"ended with {done.returncode} at mutation {at}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    counts = found["kinds"]
    assert sum(count["mutations"] for count in counts.values()) == last - first
    assert any(count["refused"] for count in counts.values())
    wrong: list[str] = found["wrong"]
    return wrong


def test_mutated_files_give_a_line_or_an_answer(corpus: Path) -> None:
    assert wrong_of(corpus, FIRST, FIRST + QUICK, QUICK_KINDS) == []


@pytest.mark.slow
def test_ten_thousand_mutations_of_every_kind(whole_corpus: Path) -> None:
    pieces = range(FIRST, FIRST + ALL, PIECE)
    assert [wrong for first in pieces for wrong in wrong_of(whole_corpus, first, first + PIECE)] == []


@pytest.mark.slow
def test_every_kind_has_files_that_are_read_whole(whole_corpus: Path) -> None:
    """Else a kind would be left out silently: mutations choose among the files that are there."""
    assert [kind for kind in mutations.READERS if not mutations.files_of(whole_corpus, kind)] == []
