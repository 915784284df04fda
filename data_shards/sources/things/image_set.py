"""The images of THINGS as a study shows them: which image has which number, and which concept it is of."""

import dataclasses
import re
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.images import ENDINGS
from neuroimagen.data_shards.sources.readers.npy import load_npy

FOLDERS = {"train": ("training_images", "train_images"), "test": ("test_images",)}
"""Of each half: the authors' name, and the one that others gave it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images of the training or the test half, in the order of the EEG's first axis."""

    half: str
    """train or test."""
    concepts: tuple[str, ...]
    """The folder of each image: 00001_aardvark."""
    paths: tuple[Path, ...]
    origin: str
    """Where the order comes from, in words."""
    is_derived: bool = False
    """Whether the order is not stated anywhere, but that of sorted names."""

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def read(cls, images: Path, half: str) -> "ImageSet":
        """In the order of image_metadata.npy; without that file, of sorted folders and file names, as loaders do it."""
        folder = next((images / name for name in FOLDERS[half] if (images / name).is_dir()), images / FOLDERS[half][0])
        metadata = images / "image_metadata.npy"
        if metadata.exists():
            concepts, files = _metadata(metadata, half)
            origin = metadata.name
        else:
            if not folder.is_dir():
                raise UserError(f"{images} holds neither image_metadata.npy nor {' or '.join(FOLDERS[half])}.")
            found = [
                path
                for path in sorted(folder.glob("*/*"), key=lambda path: (path.parent.name, path.name))
                if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
            ]
            concepts, files = tuple(p.parent.name for p in found), tuple(p.name for p in found)
            origin = f"sorted names below {folder.name}, as there is no image_metadata.npy"
        paths = tuple(folder / concept / file for concept, file in zip(concepts, files, strict=True))
        return cls(half=half, concepts=concepts, paths=paths, origin=origin, is_derived=not metadata.exists())

    @classmethod
    def named(cls, images: Path, half: str, names: tuple[str, ...], *, where: Path) -> "ImageSet":
        """Of names such as "train_images/00001_aardvark/aardvark_01b.jpg", which a file of recordings holds."""
        parts = [name.replace("\\", "/").split("/") for name in names]
        if bad := [name for name, part in zip(names, parts, strict=True) if len(part) < 2 or _unsafe(part)]:
            raise UserError(
                f"{where}: image {bad[0]!r} is not of the form train_images/00001_aardvark/aardvark_01b.jpg."
            )
        folder = next((images / name for name in FOLDERS[half] if (images / name).is_dir()), images)
        paths = tuple(folder / part[-2] / part[-1] for part in parts)
        return cls(half=half, concepts=tuple(part[-2] for part in parts), paths=paths, origin=f"names in {where.name}")


def concept_name(concept: str) -> str:
    """00001_aardvark → aardvark; ice_cream → ice cream."""
    return re.sub(r"^\d+_", "", concept).replace("_", " ")


def notes_on_names(concepts: list[str]) -> list[str]:
    """A sentence for the concepts that share a name, and so a caption and a text embedding."""
    by_name: dict[str, list[str]] = {}
    for concept in concepts:
        by_name.setdefault(concept_name(concept), []).append(concept)
    shared = {name: same for name, same in by_name.items() if len(same) > 1}
    if not shared:
        return []
    shown = "; ".join(f"{name}: {', '.join(same)}" for name, same in list(shared.items())[:10])
    return [
        f"{len(shared)} names belong to several classes, which so share a caption and a text embedding: {shown}"
        f"{' …' if len(shared) > 10 else ''}"
    ]


def _metadata(path: Path, half: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    content = load_npy(path)
    keys = (f"{half}_img_concepts", f"{half}_img_files")
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise UserError(f"{path} must hold {keys[0]!r} and {keys[1]!r}.")
    concepts, files = (tuple(map(_text, content[key])) for key in keys)
    if len(concepts) != len(files) or not files:
        raise UserError(f"{path}: {len(concepts)} concepts for {len(files)} files ({half}).")
    if bad := [text for text in concepts + files if _unsafe([text])]:
        raise UserError(f"{path}: name {bad[0][:100]!r} is not allowed.")
    return concepts, files


def _text(value: object) -> str:
    if not isinstance(value, str):  # text of anything else could be endless
        raise UserError(f"image_metadata.npy holds {type(value).__name__} where a name is expected.")
    return str(value)


def _unsafe(parts: list[str]) -> bool:
    return any(not part or "/" in part or part.startswith(".") for part in parts)
