"""The image files of a source: found, decoded once to see that they can be, and read one by one as they are stored."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from neuroimagen.data_shards.common.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from neuroimagen.data_shards.common.reading import read_bytes
from neuroimagen.data_shards.format.images import DecodedImage, decode, png_bytes

READ_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
"""JPEG and PNG are stored as they are unless their pixels have to change; all else is stored as PNG."""
ENDINGS = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class ImageContent(Protocol):
    """An image that lies in a larger file."""

    def read_bytes(self) -> bytes: ...


class ImageFiles:
    """Images by name. Making it reads and decodes every file once; no image is held in memory.

    A file that is not there is looked for beside its place under another ending (.jpg for .JPEG) or other letter case.
    """

    def __init__(self, paths: Mapping[str, "Path | ImageContent"]) -> None:
        self.problems: dict[str, str] = {}
        """Why an image cannot be stored: "missing", "unreadable: …"; in the order given."""
        self.notes: list[str] = []
        """What was changed or looks odd, one sentence for each kind, with counts and names."""
        self._path: dict[str, Path | ImageContent] = {}
        self._as_png: set[str] = set()
        self._jpeg: set[str] = set()
        """Images that are stored as the JPEG files that they are."""
        changes: dict[str, list[str]] = {}
        remarks: dict[str, list[str]] = {}
        elsewhere: list[str] = []
        folders: dict[Path, list[Path]] = {}
        named = set(paths.values())
        for name, wanted in paths.items():
            try:
                path = _found(wanted, folders) if isinstance(wanted, Path) else wanted
                if path != wanted and path in named:
                    raise FileNotFoundError
                content = _content(path)
                decoded = _decode(content)
            except FileNotFoundError:
                self.problems[name] = "missing"
                continue
            except (OSError, ValueError, MemoryError) as error:
                self.problems[name] = f"unreadable: {getattr(error, 'strerror', None) or error}"
                continue
            self._path[name] = path
            if path is not wanted and isinstance(path, Path):
                elsewhere.append(f"{name} → {path.name}")
            if decoded.changes or not content.startswith((_JPEG, _PNG)):
                self._as_png.add(name)
            elif content.startswith(_JPEG):
                self._jpeg.add(name)
            for change in decoded.changes:
                changes.setdefault(change, []).append(name)
            for remark in decoded.remarks:
                remarks.setdefault(remark, []).append(name)
        self._store_alike()
        if elsewhere:
            self.notes.append(f"{_counted(elsewhere)} found under another ending or letter case: {_some(elsewhere)}")
        for change, names in changes.items():
            self.notes.append(f"{_counted(names)} {change} and stored as PNG: {_some(names)}")
        for remark, names in remarks.items():
            self.notes.append(f"{_counted(names)} {remark}: {_some(names)}")

    def _store_alike(self) -> None:
        """Store all images as PNG where some have to be: Hugging Face `datasets` reads files of one ending only."""
        if self._jpeg and len(self._jpeg) < len(self._path):
            self.notes.append(
                f"{len(self._jpeg)} of {len(self._path)} images are JPEG and the others are not: all are stored as "
                "PNG, without loss, so that every loader reads the shards"
            )
            self._as_png |= self._jpeg

    def read(self, name: str) -> tuple[bytes, str]:
        """The encoded image as it is stored, and its extension: jpg or png."""
        content = _content(self._path[name])
        if name in self._as_png:
            return png_bytes(_decode(content).image), "png"
        return content, "png" if content.startswith(_PNG) else "jpg"


def listed(problems: Mapping[str, str], *, limit: int | None = 20) -> str:
    """The images and their problems as text; of more than `limit` images, the first ones and "…"."""
    shown = [f"{name} ({problem})" for name, problem in problems.items()][:limit]
    return ", ".join(shown) + (" …" if len(shown) < len(problems) else "")


def _content(path: "Path | ImageContent") -> bytes:
    return read_bytes(path, limit=MAX_IMAGE_BYTES) if isinstance(path, Path) else path.read_bytes()


def _decode(content: bytes) -> DecodedImage:
    return decode(content, formats=READ_FORMATS, max_pixels=MAX_IMAGE_PIXELS)


def _found(wanted: Path, folders: dict[Path, list[Path]]) -> Path:
    """The file, or the one beside it whose name differs in letter case or in an image's ending only.

    folders: what was listed already; it is filled. Raises FileNotFoundError if there is none, ValueError if several.
    """
    if wanted.exists():
        return wanted
    if wanted.parent not in folders:
        folders[wanted.parent] = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    beside = folders[wanted.parent]
    for same in (
        lambda path: path.name.casefold() == wanted.name.casefold(),
        lambda path: path.suffix.lower() in ENDINGS and path.stem == _stem(wanted),
        lambda path: path.suffix.lower() in ENDINGS and path.stem.casefold() == _stem(wanted).casefold(),
    ):
        if len(candidates := [path for path in beside if same(path)]) > 1:
            raise ValueError(f"it could be {' or '.join(path.name for path in candidates)}")
        if candidates:
            return candidates[0]
    raise FileNotFoundError


def _stem(path: Path) -> str:
    """The name without an image's ending; "n02951358.5" has none."""
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def _counted(names: Iterable[str]) -> str:
    count = len(list(names))
    return f"{count} image{'' if count == 1 else 's'}"


def _some(names: list[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (" …" if len(names) > limit else "")
