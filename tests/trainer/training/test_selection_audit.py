"""The selection audit: against checkpoints that are scored by hand, with and without averaged weights."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import RECIPE

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.training.checkpoint_folder import best_name, complete_checkpoints, read_state
from neuroimagen.trainer.training.engines.engine_state import read_network
from neuroimagen.trainer.training.selection_audit import selection_audit

Train = Callable[..., Path]


@pytest.fixture(scope="module", params=["weights", "averages"])
def run(
    request: pytest.FixtureRequest,
    train_here: Train,
    study_folder: Path,
    tiny_diffusion_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "recipe.yaml").write_text(RECIPE.format(data=study_folder, model=tiny_diffusion_folder))
    average = ("alignment.ema_decay=0.5",) if request.param == "averages" else ()
    every = ("alignment.keep_checkpoints=100", "alignment.checkpoint_every=5", "alignment.validate_every=5", *average)
    train_here(folder / "recipe.yaml", "alignment", folder / "run", *every)
    return folder / "run"


def test_every_kept_checkpoint_is_scored_on_test(run: Path, study_folder: Path, tiny_diffusion_folder: Path) -> None:
    dataset = Dataset.open(study_folder)

    def open_latents(kind: str):
        return dataset.latents(kind, model=str(tiny_diffusion_folder))

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    text = selection_audit(run, dataset, open_latents=open_latents)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before  # it writes nothing
    found = {int(step): float(share) for step, share in re.findall(r"^ +(\d+) +[\d.]+ +([\d.]+)$", text, re.M)}
    assert list(found) == [5, 10, 15, 20]
    # The exported weights are those of one of the steps: its figure is theirs.
    best = read_state(complete_checkpoints(run / "alignment" / "checkpoints")[-1]).best_step
    model = AlignmentModel.from_pretrained(run / "alignment" / "export")
    rows = dataset.rows("test")
    stimuli = dataset.index.stimulus[rows]
    gallery = np.unique(stimuli)
    targets = model.centred("image", open_latents("image").get(gallery))
    with torch.no_grad():
        eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
        similarity = torch.nn.functional.normalize(model(eeg)[0]["image"]) @ torch.nn.functional.normalize(targets).T
    top1 = (gallery[similarity.argmax(1).numpy()] == stimuli).mean()
    assert best is not None
    assert found[best] == pytest.approx(100 * top1, abs=0.06)
    assert f"chose weights with a test top-1 of {100 * top1:.1f} %" in text
    gain = max(found.values()) - 100 * top1
    assert float(re.findall(r"a bias of ([+-][\d.]+) points", text)[0]) == pytest.approx(gain, abs=0.11)


def test_a_checkpoint_s_network_is_read_without_an_engine(run: Path) -> None:
    """Where no average is kept, the best weights are those of the checkpoint at the same step, bit for bit."""
    checkpoints = run / "alignment" / "checkpoints"
    last = complete_checkpoints(checkpoints)[-1]
    state = read_state(last)
    if (last / "ema-model.safetensors").is_file():
        return  # the export has the averages, which test_every_kept_checkpoint_is_scored_on_test covers
    network = AlignmentModel.from_pretrained(checkpoints / best_name(state.best_step))
    best = network.state_dict()
    folder = checkpoints / f"step-{state.best_step:08d}" / "model"
    read = read_network(folder, network)
    assert read.keys() == best.keys()
    assert all(torch.equal(read[name], best[name]) for name in best)
    with pytest.raises(UserError, match="is of another network"):
        read_network(folder, torch.nn.Linear(2, 2))


def test_what_cannot_be_audited_says_why(
    tmp_path: Path, train_here: Train, study_folder: Path, tiny_diffusion_folder: Path
) -> None:
    dataset = Dataset.open(study_folder)

    def open_latents(kind: str):
        return dataset.latents(kind, model=str(tiny_diffusion_folder))

    with pytest.raises(UserError, match="has no trained alignment stage"):
        selection_audit(tmp_path, dataset, open_latents=open_latents)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=study_folder, model=tiny_diffusion_folder))
    train_here(tmp_path / "recipe.yaml", "alignment", tmp_path / "run", "alignment.keep_checkpoints=1")
    with pytest.raises(UserError, match=r"keeps 1 checkpoint.*alignment\.keep_checkpoints=1000"):
        selection_audit(tmp_path / "run", dataset, open_latents=open_latents)
