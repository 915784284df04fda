"""Mutated files of every kind that neuroimagen reads: one line of error or an answer, in bounded time and memory."""

import json
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

QUICK, ALL = 200, 10_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_dataset_folder: Path, tiny_diffusion_folder: Path) -> Path:
    return mutation_corpus.build_corpus(tmp_path_factory.mktemp("corpus"), tiny_dataset_folder, tiny_diffusion_folder)


def check(corpus: Path, first: int, last: int) -> None:
    """Run mutations in a process of their own, which a crash ends without ending this one."""
    done = subprocess.run(
        [sys.executable, mutations.__file__, str(corpus), str(first), str(last)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + (last - first) * mutations.SECONDS,
    )
    at = (corpus / "progress").read_text() if (corpus / "progress").is_file() else "the start"
    assert done.returncode == 0, f"ended with {done.returncode} at mutation {at}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["wrong"], "\n".join(found["wrong"])
    assert found["memory_bytes"] < mutations.MEMORY_BYTES


def test_mutated_files_give_a_line_or_an_answer(corpus: Path) -> None:
    check(corpus, 0, QUICK)


@pytest.mark.slow
def test_ten_thousand_mutations_evaluated_runs_among_them(corpus: Path, tiny_diffusion_folder: Path) -> None:
    scenes = simulated_run.write_dataset(corpus / "evaluated-data")
    run = simulated_run.write_run(corpus / "evaluated", corpus / "evaluated-data", scenes)
    classifier, clip = (str(tiny_diffusion_folder / name) for name in ("classifier", "clip"))
    config = EvaluateConfig(classifier=classifier, clip=clip, num_resamples=100)
    evaluate_run(run, Dataset.open(corpus / "evaluated-data"), config)
    for first in range(QUICK, ALL, 500):
        check(corpus, first, min(first + 500, ALL))
