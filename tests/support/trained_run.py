"""A run of untrained networks that allows every condition, whose data set names channels and unit."""

import dataclasses
from pathlib import Path

import yaml
from image_run import write_image_run

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import read_metadata

NAMES = ("Fz", "Cz", "Pz", "Oz", "P7", "P8")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, its data set and its diffusion model. Read only."""

    run: Path
    data: Path
    model: Path

    @property
    def dataset(self) -> Dataset:
        return Dataset.open(self.data)


def write_trained(folder: Path, *, data: Path, model: Path) -> Trained:
    """Made in `folder` from a tiny data set and a tiny model, which are copied."""
    run, data, model = write_image_run(folder, data=data, model=model)
    path = data / "dataset.json"
    metadata = dataclasses.replace(
        read_metadata(path), channel_names=NAMES, preprocessing={"unit": "microvolt", "window_s": [0.1, 0.3]}
    )
    path.write_text(metadata.to_json())
    recipe = {
        "data": {"path": str(data)},
        "model": {"path": str(model)},
        "reconstruct": {"steps": 2, "guidance": 2.0, "batch_size": 4, "prior_steps": 2},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return Trained(run, data, model)
