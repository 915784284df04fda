"""Pictures drawn while a stage trains: which, when, where; and that training does not notice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.reconstruct import ReconstructConfig
from neuroimagen.trainer.stages.saliency import row_noise
from neuroimagen.trainer.training.samples import ImageSampler, joined_grid

Train = Callable[..., Path]
DRAWING = ("reconstruct.steps=2", "reconstruct.guidance=2.0")


def read(stage: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted((stage / "samples").glob("*"))}


def results(stage: Path) -> dict[str, bytes]:
    """Exports and checkpoints with their random states."""
    paths = [path for part in ("export", "checkpoints") for path in (stage / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(stage)): path.read_bytes() for path in paths}


def boarded(stage: Path) -> list[int]:
    """Steps at which TensorBoard has samples."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(stage / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    return [event.step for event in board.Images("samples")] if "samples" in board.Tags()["images"] else []


def test_pictures_lie_beside_each_other_in_white_gaps() -> None:
    lines = [np.full((3, 3, 4, 4), value, dtype=np.uint8) for value in (10, 20)]
    lines[0][1] = 30
    grid = joined_grid(lines)
    assert grid.shape == (10, 16, 3)
    assert (grid[:4, :4] == 10).all()
    assert (grid[:4, 6:10] == 30).all()
    assert (grid[6:, 12:] == 20).all()
    assert (grid[4:6] == 255).all()
    assert (grid[:, 4:6] == 255).all()


@pytest.mark.parametrize("changes", [(), ("saliency.ema_decay=0.8", "saliency.zero_stage=3")])
def test_the_saliency_stage_draws_stimuli_and_maps(
    changes: tuple[str, ...], train_here: Train, recipe_path: Path, study_folder: Path, tmp_path: Path
) -> None:
    common = ("saliency.initialise_from=null", *changes)
    without = train_here(recipe_path, "saliency", tmp_path / "without", *common, "saliency.sample_every=null")
    stage = train_here(
        recipe_path, "saliency", tmp_path / "with", *common, "saliency.sample_every=3", "saliency.num_samples=5"
    )
    assert results(stage) == results(without)
    assert not (without / "samples").exists()
    pictures = read(stage)
    assert list(pictures) == ["step-00000003.png", "step-00000004.png"]  # and the last
    assert boarded(stage) == [3, 4]
    assert not np.array_equal(*pictures.values())
    # The last grid is what the exported network gives, where the export is of the last step.
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, 5).round().astype(int)]
    stimuli = dataset.stimuli.images(dataset.index.stimulus[rows], 16)
    grid = pictures["step-00000004.png"]
    assert grid.shape == (34, 5 * 18 - 2, 3)
    assert np.array_equal(grid[:16], joined_grid([stimuli]))
    if (stage / "checkpoints" / "best-00000004").is_dir():
        model = SaliencyModel.from_pretrained(stage / "checkpoints" / "best-00000004")
        eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
        maps = to_uint8(model(eeg, torch.stack([row_noise(int(row), 8) for row in rows])).detach())
        assert np.abs(grid[18:].astype(int) - joined_grid([maps])).max() <= 1


def test_semantic_and_diffusion_draw_pictures_when_asked(
    train_here: Train, recipe_path: Path, study_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    run = {}
    for asked in (False, True):
        run[asked] = tmp_path / str(asked)
        for name in ("semantic", "diffusion"):
            changes = [f"{name}.steps=4", *DRAWING]
            changes += ["semantic.initialise_from=null"] if name == "semantic" else ["diffusion.trained=lora"]
            changes += [f"{name}.sample_every=2", f"{name}.num_samples=3"] if asked else []
            train_here(recipe_path, name, run[asked], *changes)
    for name in ("semantic", "diffusion"):
        stage = run[True] / name
        assert results(stage) == results(run[False] / name)
        assert not (run[False] / name / "samples").exists()
        assert list(read(stage)) == ["step-00000002.png", "step-00000004.png"]
        assert boarded(stage) == [2, 4]
    grid = read(run[True] / "diffusion")["step-00000004.png"]
    assert grid.shape == (2 * 32 + 2, 3 * 34 - 2, 3)

    # By hand, with the exported networks: the same pictures.
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, 3).round().astype(int)]
    eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in rows]))
    scheduler = ReconstructConfig().scheduler
    sampler = ImageSampler(model=tiny_diffusion_folder, steps=2, guidance=2.0, scheduler=scheduler)
    for name, kind in (("semantic", SemanticModel), ("diffusion", EEGDiffusion)):
        best = run[True] / name / "checkpoints" / "best-00000004"
        if not best.is_dir():
            continue
        model = kind.from_pretrained(best)
        semantic = model.semantic if isinstance(model, EEGDiffusion) else model
        unet = model.unet if isinstance(model, EEGDiffusion) else None
        with torch.no_grad():
            drawn = sampler.draw(semantic(eeg), rows, unet=unet)
        expected = read(run[True] / name)["step-00000004.png"][34:].astype(int)
        assert np.abs(expected - joined_grid([drawn])).max() <= 1, name
    assert any((run[True] / name / "checkpoints" / "best-00000004").is_dir() for name in ("semantic", "diffusion"))


def test_a_disk_that_fails_is_said_on_every_rank(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(UserError, match=r"step-00000002\.png: No space left"):
            train_here(recipe_path, "saliency", tmp_path, "saliency.initialise_from=null", "saliency.sample_every=2")
    assert not list((tmp_path / "saliency" / "samples").iterdir())
    with pytest.raises(UserError, match=r"num_samples and sample_every must be at least 1"):
        load_recipe(recipe_path, ["semantic.sample_every=0"])
