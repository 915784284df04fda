"""`bench cache`: ours and the plain loop store the same latents of the same images."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.benchmarks import cache, frozen_model


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cache.add_arguments(parser)
    return parser.parse_args(words)


def test_both_store_the_same(tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "cache.json"
    words = ["--model", str(tiny_diffusion_folder), "--images", "5", "--batch-size", "2", "--turns", "1"]
    cache.run(arguments(*words, "--json", str(path)))
    report = json.loads(path.read_text())
    assert set(report["methods"]) == {"ours", "plain loop, batch 2", "plain loop, batch 1"}
    assert all(figures["pictures_per_second"] > 0 for figures in report["methods"].values())
    assert report["largest_difference"] < 2e-3  # two roundings to float16
    assert (report["image_size_px"], report["images"]) == (32, 5)
    assert "largest difference to the plain loop" in capsys.readouterr().out


def test_other_latents_are_seen(tmp_path: Path) -> None:
    class Store:
        stimulus_keys = ("a", "b")

        def get(self, rows: list[int]) -> torch.Tensor:
            return torch.full((1, 3), float(rows[0]))

    np.save(tmp_path / "a.npy", np.array([0.0, 0.0, 4.0], dtype=np.float16))
    np.save(tmp_path / "b.npy", np.ones(3, dtype=np.float16))
    assert cache.largest_difference(Store(), tmp_path) == 1.0  # type: ignore[arg-type]


def test_turns_alternate_and_figures_are_their_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = iter([0.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 8.0, 8.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr(frozen_model, "now", lambda device: next(clock))
    methods = {name: (lambda name=name: calls.append(name) or 4) for name in ("ours", "theirs")}
    figures = frozen_model.take_turns(methods, 3, torch.device("cpu"))
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert figures["theirs"]["pictures_per_second"] == 2.0  # 2, 1 and 4 of 4 images took 2, 4 and 1 s
    assert figures["ours"]["pictures_per_second"] == 4.0
    assert figures["ours"]["peak_memory_bytes"] is None


@pytest.mark.parametrize("unet", [True, False])
def test_a_model_of_given_sizes_is_a_model_folder(tmp_path: Path, unet: bool) -> None:
    from neuroimagen.benchmarks.stable_diffusion import TINY
    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.data_shards.frozen_models.model_folder import image_size_px, text_shape
    from neuroimagen.trainer.reconstruction.pipelines.generator import Generator

    sizes = replace(TINY, text={**TINY.text, "vocab_size": 700})  # of the bundled tokenizer, rounded up
    folder = frozen_model.write_model(tmp_path / "model", sizes, unet=unet)
    assert (image_size_px(folder), text_shape(folder)) == (TINY.image_size_px, TINY.text_shape)
    if not unet:
        with pytest.raises(UserError, match=r"unet holds no weights"):
            Generator(folder)
        return
    generator = Generator(folder)
    hidden = generator.prompt(["a", "an image of a dog"]).text
    assert hidden is not None
    assert torch.isfinite(hidden).all()
    assert not torch.equal(hidden[0], hidden[1])
    assert generator.latent_shape == TINY.latent_shape
