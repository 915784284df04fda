"""The stimuli that a table of what was shown names: their images, classes, captions and keys."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import ClassInfo, StimulusRecord
from neuroimagen.data_shards.sources.class_names import class_caption, refuse_differing_classes
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed
from neuroimagen.data_shards.sources.stimulus_keys import keys_of_images


class Stimuli:
    """Stimuli of the trials of a table.

    image, class_name: text of each trial. caption: text of each trial, "" for none; or None. where: the table's name.
    Raises UserError naming images that have two classes, lie outside the folder, or cannot be stored.
    """

    def __init__(
        self,
        image: pa.ChunkedArray,
        class_name: pa.ChunkedArray,
        caption: pa.ChunkedArray | None,
        *,
        folder: Path,
        where: str,
    ) -> None:
        self.number, names = encoded(image)
        classes, class_names = encoded(class_name)
        order = np.argsort(np.array(class_names, dtype=object))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        self.label = rank[classes]
        """int64 [trials]: position of the trial's class in `classes`."""
        self.classes = tuple(ClassInfo(name=class_names[place]) for place in order.tolist())
        _, first = np.unique(self.number, return_index=True)
        own = self.label[first]
        if (wrong := np.flatnonzero(self.label != own[self.number])).size:
            trial = wrong[0]
            two = [self.classes[label].name for label in (own[self.number[trial]], self.label[trial])]
            raise UserError(
                f"image {names[self.number[trial]]} has two classes in {where}, {two[0]!r} and {two[1]!r} "
                f"({wrong.size} rows)."
            )
        refuse_differing_classes(
            zip(names, (self.classes[label].name for label in own.tolist()), strict=True), where=where
        )
        self._names, self._label_of_image = names, own.tolist()
        self._caption_of_image: list[str | None] = [None] * len(names)
        if caption is not None:
            texts = caption.to_numpy(zero_copy_only=False)
            said = np.flatnonzero(texts != "")
            for trial in said[np.unique(self.number[said], return_index=True)[1]].tolist():
                self._caption_of_image[self.number[trial]] = texts[trial]
        key_of = keys_of_images(names)
        self.keys = [key_of[name] for name in names]
        """Key of each image, by `number`."""
        self._files = ImageFiles({name: folder / name for name in names})
        self.notes = self._files.notes
        """What was changed of images or looks odd, one sentence each."""
        if problems := self._files.problems:
            raise UserError(
                f"{len(problems)} of {len(names)} images under {folder} can't be stored: {listed(problems)}. Put them "
                f"there, or remove their rows from {where}."
            )

    def records(self) -> Iterator[StimulusRecord]:
        """Every stimulus once, in the order of its first trial."""
        for number, name in enumerate(self._names):
            content, extension = self._files.read(name)
            label = self._label_of_image[number]
            yield StimulusRecord(
                key=self.keys[number],
                image=content,
                extension=extension,
                label=label,
                caption=class_caption(self.classes[label].name),
                detailed_caption=self._caption_of_image[number],
            )


def encoded(texts: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Number of each text, int64, and the texts, in the order of first appearance."""
    array = pc.dictionary_encode(texts.combine_chunks())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array.indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary.to_pylist()
