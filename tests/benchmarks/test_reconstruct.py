"""`bench reconstruct`: ours and diffusers' pipeline generate the same images."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks import reconstruct


@pytest.mark.parametrize("scheduler", ["dpm-solver++", "ddim"])
def test_both_draw_the_same(tiny_diffusion_folder: Path, tmp_path: Path, scheduler: str) -> None:
    parser = argparse.ArgumentParser()
    reconstruct.add_arguments(parser)
    path = tmp_path / "new" / "reconstruct.json"
    words = ["--model", str(tiny_diffusion_folder), "--steps", "3", "4", "--batch-size", "3", "--single", "2"]
    words += ["--turns", "1", "--dtype", "float32", "--scheduler", scheduler, "--json", str(path)]
    reconstruct.run(parser.parse_args(words))
    report = json.loads(path.read_text())
    assert [result["steps"] for result in report["results"]] == [3, 4]
    for result in report["results"]:
        assert set(result["methods"]) == {"ours", "pipeline, batched", "pipeline, one at a time"}
        for figures in result["methods"].values():
            assert figures["pictures_per_second"] > 0
            assert figures["largest_difference"] <= 1  # rounding's grey level


def test_other_images_are_seen() -> None:
    images = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    others = np.zeros((3, 3, 4, 4), dtype=np.uint8)
    others[2] = 255  # beyond the first two
    others[1, 0, 0, 0] = 200
    assert reconstruct.grey_levels(images, others) == {"largest_difference": 200, "mean_difference": 200 / 96}
