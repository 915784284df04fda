"""Keys of stimuli from the names of image files, in any script.

A key names the members of a tar, so it holds ASCII letters, digits, '_' and '-' only, at most 80.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.tar import is_valid_key

_MAX_LENGTH = 80
_HASH_DIGITS = 10


def keys_of_images(images: Sequence[str]) -> dict[str, str]:
    """Key of each image, given as paths below the image folder: the path without the ending.

    Raises UserError for a path that leads out of the folder.
    """
    for image in images:
        if Path(image).is_absolute() or ".." in Path(image).parts or "\0" in image:
            raise UserError(f"image {image!r} in the table lies outside the image folder.")
        if not Path(image).name:
            raise UserError(f"image {image!r} in the table names no file of the image folder.")
    return unique_keys({image: str(Path(image).with_suffix("")) for image in images})


def unique_keys(texts: Mapping[str, str]) -> dict[str, str]:
    """Key of each name: the text given for it, with everything but ASCII letters and digits as '_'.

    Where nothing is left of a text, or two names get the same key (names in other scripts, that differ in their endings
    or before the last 80 characters), the key ends with digits of the name's SHA-256. So a key never depends on the
    order of the names.
    """
    plain = {name: re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[-_MAX_LENGTH:] for name, text in texts.items()}
    count = Counter(plain.values())
    keys = {name: key if is_valid_key(key) and count[key] == 1 else _hashed(key, name) for name, key in plain.items()}
    if len(set(keys.values())) != len(keys):  # a name that looks like another's key with its digits
        keys = {name: _hashed(key, name) for name, key in plain.items()}
    assert len(set(keys.values())) == len(keys), "two names with one SHA-256"
    return keys


def _hashed(key: str, name: str) -> str:
    digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_DIGITS]
    return f"{key[-(_MAX_LENGTH - _HASH_DIGITS - 1) :].strip('_-') or 'image'}_{digits}"
