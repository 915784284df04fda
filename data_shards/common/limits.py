"""How large a thing from outside may be. Whatever exceeds a limit is refused with one line, before it takes memory.

Each limit is far above what real files have and far below what a machine cannot bear.
"""

MAX_JSON_BYTES = 256 << 20
"""Of a JSON file: the vocabulary of the largest tokenizers takes 30 MB."""
MAX_JSON_DEPTH = 64
"""Objects and lists inside each other."""
MAX_JSON_DIGITS = 100
"""Of a whole number: tokenizers write "no limit" as 10^30, and no float has more than 309."""
MAX_YAML_BYTES = 64 << 10
"""Of a recipe, a search, or a value of `--set`. A recipe has 8 kB; PyYAML reads about 100 kB per second."""
MAX_YAML_VALUES = 20_000
"""Values of a YAML text after its aliases are written out."""
MAX_IMAGE_PIXELS = 64_000_000
"""Width × height of an image. One of this size takes 200 MB when it is decoded."""
MAX_IMAGE_SIDE = 8192
"""Of the width or height to which a model resizes images."""
MAX_IMAGE_BYTES = 256 << 20
"""Of an image file."""
MAX_CELL_BYTES = 64 << 10
"""Of one text in a table: captions are the longest, and have a few hundred bytes."""
MAX_ROW_BYTES = 4096
"""Per row of a table of ours, uncompressed, on average."""
MAX_ROW_GROUP_BYTES = 4 << 30
"""Of a row group of a published table, uncompressed: EEG and images lie in them."""
MAX_ARRAYS_BYTES = 16 << 30
"""Of all arrays of an .npz, uncompressed."""
MAX_COMPRESSION = 100
"""Times that an .npz of more than 1 GiB, uncompressed, may be larger than its file: EEG is by less than 10."""
MAX_NPY_HEADER_BYTES = 10_000
MAX_SCHEDULER_STEPS = 100_000
"""Timesteps of a noise schedule; models have 1,000."""
MAX_MODEL_SIZE = 1 << 22
"""Of a whole number in a model's configuration: the largest, vocabularies and lengths, stay below a million."""
MAX_TABLE_NUMBERS = 1 << 29
"""Of a model's largest table of embeddings: SigLIP's multilingual one has 256,000 × 1,152, a little more than half."""
MAX_LAYERS = 1000
"""Of a network."""
MAX_SHOWN_CHARACTERS = 200
"""Of a name in a figure or a table; what follows is shown as "…"."""


def shortened(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """The text, or its beginning and "…" where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
