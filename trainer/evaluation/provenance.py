"""What a figure rests on: data, models, recipe, versions; printed in the report, kept beside the results."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.dataset.dataset import Dataset

PACKAGES = ("neuroimagen", "torch", "deepspeed", "diffusers", "transformers", "numpy", "scikit-learn", "mne")


def provenance(run: Path, dataset: Dataset, judges: Mapping[str, str]) -> dict[str, Any]:
    """Everything needed to repeat an evaluation, as JSON values; files are named by their SHA-256."""
    metadata = dataset.metadata
    index = dataset.index
    parts = {
        part: {
            "segments": len(rows := dataset.rows(part)),
            "stimuli": len(set(index.stimulus[rows].tolist())),
            "subjects": len(set(index.subject[rows].tolist())),
        }
        for part in ("train", "val", "test")
    }
    return {
        "data": {
            "name": metadata.name,
            "digest": dataset.digest,
            "split_rule": metadata.split_rule,
            "parts": parts,
            "n_channels": metadata.n_channels,
            "n_samples": metadata.n_samples,
            "sfreq": metadata.sfreq,
            "band_hz": metadata.band_hz,
            "preprocessing": dict(metadata.preprocessing),
            "files": metadata.provenance.get("files", {}),
        },
        "judges": dict(judges),
        "run_files": {
            path.relative_to(run).as_posix(): _sha256(path)
            for path in sorted(
                [*run.glob("*.yaml"), *run.glob("*/config.yaml"), *run.glob("*/export/**/*.safetensors")]
            )
        },
        "reconstructions": {
            path.parent.name: {key: value for key, value in json.loads(path.read_text()).items() if key != "items"}
            for path in sorted(run.glob("reconstructions/*/manifest.json"))
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
