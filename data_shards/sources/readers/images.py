"""Images as sources find them: which of them can be stored, and under which file name extension."""

from collections.abc import Mapping
from pathlib import Path

from neuroimagen.data_shards.format.images import decode_image

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def image_extension(content: bytes) -> str:
    """jpg or png, from the first bytes of an encoded image."""
    return "png" if content.startswith(_PNG) else "jpg"


def image_problem(path: Path) -> str | None:
    """Why an image cannot be stored: "missing", "unreadable: …" or "neither JPEG nor PNG"; None if it can."""
    try:
        content = path.read_bytes()
        decode_image(content)
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError) as error:
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
    return None if content.startswith((_JPEG, _PNG)) else "neither JPEG nor PNG"


def image_problems(paths: Mapping[str, Path]) -> dict[str, str]:
    """`image_problem` of each image that has one, in the order given. Reads and decodes every image."""
    return {name: problem for name, path in paths.items() if (problem := image_problem(path))}


def listed(problems: Mapping[str, str], *, limit: int | None = 20) -> str:
    """The images and their problems as text; of more than `limit` images, the first ones and "…"."""
    shown = [f"{name} ({problem})" for name, problem in problems.items()][:limit]
    return ", ".join(shown) + (" …" if len(shown) < len(problems) else "")
