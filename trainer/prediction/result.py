# pyright: basic
"""What a pipeline returns, and how it is written to a folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import array_table, write_embeddings

EMBEDDINGS_FILE = "embeddings.parquet"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """Images and what they were made from. `images` and `saliency_maps` have one entry for each sample of each segment,
    segment after segment; the arrays one for each segment.
    """

    condition: str
    images: list[Image.Image]
    saliency_maps: list[Image.Image] | None
    """Drawn with the same noise as the images; None where the run has no saliency stage."""
    image_embeddings: Mapping[str, Floats]
    """Kind of embedding → float32 [n, E], as the alignment stage predicts them: to be compared by cosine with an
    image's embedding minus `centres[kind]`. Empty where the run has no alignment stage."""
    centres: Mapping[str, Floats]
    """Kind of embedding → float32 [E]."""
    segments: Integers
    """Numbers of the segments, int64 [n]: with the seed, they decide the noise."""
    subjects: Integers
    """Whose EEG it was, int64 [n]; −1: not said."""
    num_images: int
    """Images of each segment."""
    source: Path
    """The run or saved pipeline."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that decided the images, as JSON values."""
    notes: tuple[str, ...] = ()
    """What was changed on the way, and what to know of the images."""

    def save(self, folder: Path | str) -> None:
        """Write images, saliency maps, embeddings and a manifest into `folder`, whole or not at all.

        Raises UserError if the folder exists and is not empty.
        """
        with atomic_folder(Path(folder)) as place:
            items = []
            for number, image in enumerate(self.images):
                segment, sample = divmod(number, self.num_images)
                name = f"{segment_key(int(self.segments[segment]))}_{sample}.png"
                item: dict[str, Any] = {
                    "segment": int(self.segments[segment]),
                    "subject": int(self.subjects[segment]),
                    "sample": sample,
                    "file": _save(image, place, "images", name),
                }
                if self.saliency_maps is not None:
                    item["saliency_map"] = _save(self.saliency_maps[number], place, "saliency_maps", name)
                items.append(item)
            if self.image_embeddings:
                table = array_table(self.image_embeddings, segments=self.segments, subjects=self.subjects)
                write_embeddings(table, place / EMBEDDINGS_FILE, centres=self.centres, run=self.source)
            tree = {"condition": self.condition, **self.settings, "notes": list(self.notes), "items": items}
            (place / MANIFEST_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def as_images(pixels: np.ndarray) -> list[Image.Image]:
    """uint8 [n, 3, S, S] → images."""
    return [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in pixels]


def _save(image: Image.Image, folder: Path, below: str, name: str) -> str:
    (folder / below).mkdir(exist_ok=True)
    image.save(folder / below / name, format="PNG")
    return f"{below}/{name}"
