"""A guidance search on untrained networks: models load once per worker, test stays sealed, best.yaml is a recipe."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.sealed import SealedSplitError, sealed
from neuroimagen.launch.cli import main
from neuroimagen.trainer.evaluation.metrics.pixel_correlation import pixel_correlation
from neuroimagen.trainer.evaluation.scoring.scoring import load_scoring
from neuroimagen.trainer.evaluation.scoring.structural_similarity import ssim
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.records import SearchFolder, read_lines
from neuroimagen.tune.trials.guidance import SharedModels, chunks, guidance_recipe
from neuroimagen.tune.trials.objective import spread


@pytest.fixture
def run(tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    encoder = encoder_config(feature_size=8, kernel_samples=5, stride_samples=2)
    network = {"n_channels": 6, "n_samples": 20, "encoder": dataclasses.asdict(encoder)}
    torch.manual_seed(0)
    SaliencyModel(encoder=network, noise_size=5, image_size_px=16, width=16).save_pretrained(folder / "saliency/export")
    for name in ("semantic", "semantic_detailed"):
        semantic = SemanticModel(encoder=network, text_shape=(24, 32), hidden_size=8, head_dropout=0.0)
        semantic.save_pretrained(folder / name / "export")
    recipe = {
        "data": {"path": str(tiny_dataset_folder)},
        "model": {"path": str(tiny_diffusion_folder)},
        "reconstruct": {"steps": 4, "guidance": 2.0, "batch_size": 4},
        "evaluate": {
            "classifier": str(tiny_diffusion_folder / "classifier"),
            "clip": str(tiny_diffusion_folder / "clip"),
            "n_way": 12,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_segments_are_spread_and_chunks_are_all_of_them() -> None:
    rows = np.arange(100, 137)
    assert spread(rows, None) is rows
    assert len(set(spread(rows, 10).tolist())) == 10
    assert np.ptp(spread(rows, 10)) > 30
    found = chunks(rows, 5)
    assert sorted(np.concatenate(found).tolist()) == rows.tolist()
    assert all(np.ptp(chunk) > 25 for chunk in found)


def test_figures_are_those_of_the_reconstructor_and_the_metrics(run: Path) -> None:
    default = run / "config.yaml"
    values = {"reconstruct.guidance": 3.0, "reconstruct.semantic": "semantic_detailed"}
    with sealed("test"):
        shared = SharedModels(run, load_recipe(default), device="cpu")
        rows = shared.rows(None)
        recipe = guidance_recipe(default, values, "full", seed=5)
        found = shared.figures(recipe, "full", rows).values
        with pytest.raises(SealedSplitError):
            Dataset.open(load_recipe(default).data.path or "").rows("test")
        dataset = Dataset.open(recipe.data.path or "")
        assert rows.tolist() == dataset.rows("val").tolist()
        reconstructor = Reconstructor(run, dataset, Path(recipe.model.path), recipe.reconstruct)
        images = reconstructor.draw("full", [SegmentSample(row=int(row)) for row in rows])
        scoring = load_scoring(recipe.evaluate, dataset, subjects=None, size_px=32, split="val", device="cpu")
    references = scoring.references
    columns = np.searchsorted(references.stimuli, dataset.index.stimulus[rows])
    assert recipe.reconstruct.seed == 5
    np.testing.assert_allclose(found["ssim"], ssim(images, references.images[columns]), atol=2e-3)
    np.testing.assert_allclose(found["pixcorr"], pixel_correlation(images, references.images[columns]), atol=2e-3)
    assert set(found) == {"two_way_clip", "ssim", "accuracy", "pixcorr"}
    assert all(len(values) == len(rows) for values in found.values())


@pytest.mark.slow
def test_a_search_loads_its_models_once_a_worker_and_ends_in_a_recipe(run: Path, tmp_path: Path) -> None:
    search, out = tmp_path / "search.yaml", tmp_path / "out"
    search.write_text(
        "sampler: grid\npareto: [ssim, two_way_clip]\nnum_segments: 4\nconfirm_seeds: 2\nspace:\n"
        "  reconstruct.guidance: [1.0, 4.0]\n  reconstruct.strength: [0.1, 0.5, 1.0]\n"
    )
    command = [sys.executable, "-m", "neuroimagen.launch.cli", "tune", "guidance", "--concurrent", "1"]
    done = subprocess.run(
        [*command, "--config", str(search), "--run", str(run), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = SearchFolder(out).records()
    assert len(made) == 6
    # One worker for all trials, and one for all runs with new seeds.
    assert len(read_lines(out / ".ray" / "workers.jsonl")) == 2
    # 0.1 × 4 steps leave nothing to denoise: these trials fail, and the others do not.
    assert [record.state for record in made] == ["failed", "finished", "finished"] * 2
    assert "no denoising step" in made[0].message
    results = json.loads((out / "results.json").read_text())
    assert [item["objective"] for item in results["comparisons"]] == ["ssim", "two_way_clip"]
    assert results["pareto_front"]
    assert "Pareto front" in (out / "report.html").read_text()

    for record in SearchFolder(out).records("confirm"):
        found = SegmentFigures.read(SearchFolder(out).trial(record.name).segment_figures)
        assert len(found.rows) == 6  # all of the validation split
        assert {name: pytest.approx(value) for name, value in found.means().items()} == record.figures
    methods = {item["method"] for item in results["comparisons"]}
    assert methods == {"intervals over seeds and 3 stimuli, paired by segment"}

    recipe = load_recipe(out / "found.yaml")
    best = next(record for record in made if record.name == results["best"]["trial"])
    assert recipe.reconstruct.guidance == best.values["reconstruct.guidance"]
    assert (recipe.reconstruct.split, recipe.reconstruct.conditions, recipe.reconstruct.seed) == ("test", None, 0)
    assert main(["reconstruct", "--run", str(run), "--config", str(out / "found.yaml"), "--conditions", "full"]) == 0
    manifest = json.loads((run / "reconstructions" / "full" / "manifest.json").read_text())
    assert manifest["strength"] == best.values["reconstruct.strength"]
    assert manifest["split"] == "test"


def test_a_setting_is_the_same_alone_and_after_others_on_a_worker(run: Path) -> None:
    default = run / "config.yaml"
    with sealed("test"):
        shared = SharedModels(run, load_recipe(default), device="cpu")
        rows = shared.rows(4)
        wanted = guidance_recipe(default, {"reconstruct.guidance": 2.0}, "full", seed=0)
        first = shared.figures(wanted, "full", rows).values
        changes = {"reconstruct.scheduler": "ddim", "reconstruct.steps": 8, "reconstruct.semantic": "semantic_detailed"}
        shared.figures(guidance_recipe(default, changes, "full", seed=1), "full", rows)
        again = shared.figures(wanted, "full", rows).values
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
