"""The choice on validation: figures against the metrics on the images, test sealed, kept, refused, made again."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from untrained_run import write_untrained_exports

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.sealed import sealed_splits
from neuroimagen.trainer.evaluation.headline.choosing import choose_headline
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.evaluation.scoring.structural_similarity import ssim
from neuroimagen.trainer.reconstruction.config import ChooseConfig, ReconstructConfig
from neuroimagen.trainer.reconstruction.headline import choice_file, choice_folder
from neuroimagen.trainer.reconstruction.manifest import read_image, read_manifest
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor

CANDIDATES = ("full", "semantic_only", "saliency_only")
CONFIG = ReconstructConfig(
    steps=2,
    batch_size=4,
    guidance=2.0,
    samples=2,
    side_segments=3,
    choose=ChooseConfig(conditions=CANDIDATES, segments=4, by={"ssim": 1.0, "two_way_clip": 1.0}),
)


@pytest.fixture
def make(tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> Callable[..., Reconstructor]:
    run = write_untrained_exports(tmp_path / "run", tiny_diffusion_folder, ("saliency", "semantic"))

    def make(**changes: Any) -> Reconstructor:
        config = dataclasses.replace(CONFIG, **changes)
        return Reconstructor(run, Dataset.open(tiny_dataset_folder), tiny_diffusion_folder, config)

    return make


def test_the_best_candidate_on_validation_is_chosen(
    make: Callable[..., Reconstructor], config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconstructor = make()
    draw, seals = Reconstructor.draw, []

    def seen_draw(self: Reconstructor, name: str, items: Any) -> np.ndarray:
        seals.append((name, sealed_splits()))
        return draw(self, name, items)

    monkeypatch.setattr(Reconstructor, "draw", seen_draw)
    choice = choose_headline(reconstructor, config)
    assert seals == [(name, ("test",)) for name in CANDIDATES]
    assert sealed_splits() == ()
    assert set(choice.figures) == set(CANDIDATES)
    assert (choice.num_segments, choice.num_stimuli) == (4, 3)

    dataset = reconstructor.dataset
    for name in CANDIDATES:
        found = read_manifest(choice_folder(reconstructor.run) / name)
        rows = [int(key.lstrip("s")) for key in found.segments]
        assert set(rows) <= set(dataset.rows("val").tolist())
        assert len(found) == 4  # one sample of each
        images = np.stack([read_image(path) for path in found.files])
        truth = dataset.stimuli.images(dataset.index.stimulus[rows], 32)
        figures = choice.figures[name]
        assert figures["ssim"]["value"] == pytest.approx(ssim(images, truth).mean(), abs=1e-6)
        mean = np.mean([figures[metric]["value"] for metric in ("ssim", "two_way_clip")])
        assert figures["objective"]["value"] == pytest.approx(mean)
        assert figures["objective"]["low"] <= figures["objective"]["value"] <= figures["objective"]["high"]
    best = max(CANDIDATES, key=lambda name: choice.figures[name]["objective"]["value"])
    assert choice.condition == best

    # The chosen condition is drawn for every segment of the test split, the others for three.
    sizes = {name: len(reconstructor.segment_samples(name)) for name in CANDIDATES}
    assert sizes == {name: (6 if name == best else 3) * 2 for name in CANDIDATES}


def test_a_choice_is_kept_refused_or_made_again(make: Callable[..., Reconstructor], config: EvaluateConfig) -> None:
    first = choose_headline(make(), config)
    path = choice_file(make().run)
    before = path.stat().st_mtime_ns
    assert choose_headline(make(side_segments=None, samples=1), config) == first  # what the choice does not depend on
    assert path.stat().st_mtime_ns == before
    with pytest.raises(
        UserError, match=r"choice\.json was made with other settings: full: guidance 2\.0 → 3\.0.*--over"
    ):
        choose_headline(make(guidance=3.0), config)
    other = dataclasses.replace(CONFIG.choose, conditions=("saliency_only",), by={"ssim": 1.0})
    with pytest.raises(
        UserError, match=r"choose\.by .*choose\.conditions full, semantic_only, saliency_only → saliency"
    ):
        choose_headline(make(choose=other), config)
    assert choose_headline(make(choose=other), config, overwrite=True).condition == "saliency_only"
    assert json.loads(path.read_text())["by"] == {"ssim": 1.0}


def test_a_candidate_that_cannot_be_drawn_is_refused_before_anything_is_drawn(
    make: Callable[..., Reconstructor], config: EvaluateConfig
) -> None:
    choose = dataclasses.replace(CONFIG.choose, conditions=("full", "image_only"))
    with pytest.raises(UserError, match=r"image_only cannot be drawn: .*takes no image embedding"):
        choose_headline(make(choose=choose), config)
    assert not choice_folder(make().run).exists()
