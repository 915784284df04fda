"""What the figures were computed from: data, models, recipe, versions; and which split chose the checkpoints."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file, read_json
from neuroimagen.data_shards.dataset.dataset import Dataset

PACKAGES = ("neuroimagen", "torch", "deepspeed", "diffusers", "transformers", "numpy", "scikit-learn", "mne")


def provenance(run: Path, dataset: Dataset, scoring_networks: Mapping[str, str]) -> dict[str, Any]:
    """Everything needed to repeat an evaluation, as JSON values; the run's files with their SHA-256."""
    metadata = dataset.metadata
    index = dataset.index
    splits = {
        split: {
            "segments": len(rows := dataset.rows(split)),
            "stimuli": len(set(index.stimulus[rows].tolist())),
            "subjects": len(set(index.subject[rows].tolist())),
        }
        for split in ("train", "val", "test")
    }
    return {
        "data": {
            "name": metadata.name,
            "digest": dataset.digest,
            "split_rule": metadata.split_rule,
            "splits": splits,
            "n_channels": metadata.n_channels,
            "n_samples": metadata.n_samples,
            "sfreq": metadata.sfreq,
            "band_hz": metadata.band_hz,
            "preprocessing": dict(metadata.preprocessing),
            "files": metadata.provenance.get("files", {}),
        },
        "scoring_networks": dict(scoring_networks),
        "run_files": {
            path.relative_to(run).as_posix(): _sha256(path)
            for path in sorted(
                [*run.glob("*.yaml"), *run.glob("*/config.yaml"), *run.glob("*/export/**/*.safetensors")]
            )
        },
        "reconstructions": {
            path.parent.name: {key: value for key, value in read_json(path).items() if key != "items"}
            for path in sorted(run.glob("reconstructions/*/manifest.json"))
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def require_selection_on_validation(run: Path) -> None:
    """Raise UserError unless the validation split chose the checkpoint at every start of every stage."""
    for path in sorted(run.glob("*/environment.json")):
        stage = path.parent.name
        try:
            starts = read_json(path)
            selections = [start.get("selection_split") for start in starts]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"cannot read {path}, so it is unknown which split chose the checkpoint of {stage}. Train the stage "
                "again."
            ) from error
        wrong = [selection for selection in selections if selection != "val"]
        if wrong or not selections:
            split = f"the {wrong[0]!r} split" if wrong and wrong[0] is not None else "an unknown split"
            raise UserError(
                f"{path} says that {split} chose the {stage} checkpoint. Figures on the test split would be biased: "
                "train the stage again, with selection by the validation split ('val')."
            )
    for folder in sorted(path.parent for path in run.glob("*/export")):
        if not (folder / "environment.json").is_file():
            raise UserError(
                f"{folder} has no environment.json, so it is unknown which split chose its checkpoint. Train the stage "
                "again."
            )


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
