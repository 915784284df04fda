"""Embeddings of training segments, each by a network that was trained without the segment's stimulus, kept in a run.

segments.safetensors    rows int64 [N] of the index, ascending; fold int64 [N]; embeddings float32 [N, P]
embeddings.json         what they were made of, and the SHA-256 of the other file
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.data_shards.common.reading import open_file, read_json_object

SEGMENTS_FILE = "segments.safetensors"
METADATA_FILE = "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class SegmentEmbeddings:
    """Embeddings of N training segments that were computed before training, on the CPU."""

    rows: Tensor
    """Rows of the index, int64 [N], ascending."""
    embeddings: Tensor
    """float32 [N, P]"""

    def of(self, rows: Tensor) -> Tensor:
        """Embeddings of the segments in `rows` int64 [B], [B, P]."""
        places = torch.searchsorted(self.rows, rows).clamp_max(len(self.rows) - 1)
        if not torch.equal(self.rows[places], rows):
            raise ValueError("a segment has no embedding that was computed before training")
        return self.embeddings[places]


@dataclass(frozen=True, kw_only=True)
class HeldOutEmbeddings(SegmentEmbeddings):
    """Embeddings by networks that were trained without the segment's stimulus."""

    fold: Tensor
    """Fold that a segment's stimulus is in, and that the network of its embedding was trained without, int64 [N]."""

    def write(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        """Write both files; the folder appears complete or not at all. Raises UserError where it exists already."""
        with atomic_folder(folder) as unfinished:
            tensors = {"rows": self.rows, "fold": self.fold, "embeddings": self.embeddings.contiguous()}
            save_file(tensors, unfinished / SEGMENTS_FILE, metadata={"format": "pt"})
            metadata = {"made_of": dict(made_of), "sha256": file_digest(unfinished / SEGMENTS_FILE)}
            text = json.dumps(metadata, indent=1) + "\n"
            (unfinished / METADATA_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, made_of: Mapping[str, Any]) -> Self:
        """What `write` has written. Raises UserError if it is damaged, or was made of anything else than `made_of`."""
        try:
            metadata = read_json_object(folder / METADATA_FILE)
            if metadata["sha256"] != file_digest(folder / SEGMENTS_FILE):
                raise ValueError("its digest differs")
            tensors = load_file(folder / SEGMENTS_FILE)
            found = cls(**tensors)
            given = dict(metadata["made_of"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"{folder} is damaged ({error}). Remove it and go on with --resume: it is made again."
            ) from None
        differing = [key for key, value in made_of.items() if given.get(key) != value]
        if differing:
            raise UserError(
                f"{folder} was made of another {', '.join(differing)} than there is now. Remove it, or restore what it "
                "was made of."
            )
        return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
