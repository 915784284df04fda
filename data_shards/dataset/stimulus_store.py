"""The stimuli of a data set: their captions, and their images, which are decoded once per size and kept in memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.sealed import SealedSplitError
from neuroimagen.data_shards.format.images import decode_image, square_image
from neuroimagen.data_shards.format.storage import CorruptSampleError, Shards
from neuroimagen.data_shards.format.tables import numpy_column

DEFAULT_CACHE_BYTES = 1 << 30
"""Most memory that decoded images take, as uint8."""


class StimulusStore:
    """Images and captions by stimulus index, which is the row of stimuli.parquet. Safe to use from several threads."""

    def __init__(self, table: pa.Table, shards: Shards, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.keys: tuple[str, ...] = tuple(table.column("key").to_pylist())
        self.labels = numpy_column(table, "label").astype(np.int64)
        """int64 [num_stimuli]."""
        self.captions: tuple[str, ...] = tuple(table.column("caption").to_pylist())
        """Caption of each stimulus's class."""
        self.detailed_captions: tuple[str | None, ...] = tuple(table.column("detailed_caption").to_pylist())
        """Caption of each image, None where there is none."""
        self.extensions: tuple[str, ...] = tuple(table.column("extension").to_pylist())
        self.shard, self.offset, self.size, self.crc32 = (
            numpy_column(table, name) for name in ("shard", "offset", "size", "crc32")
        )
        self.shards = shards
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached = 0
        self._lock = threading.Lock()
        self._withheld: np.ndarray | None = None

    def withhold(self, stimuli: np.ndarray | None) -> None:
        """Refuse from now on to read the images marked in bool [num_stimuli]; None: refuse none."""
        self._withheld = stimuli

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> memoryview:
        """The stored JPEG or PNG bytes, checked against their CRC.

        Raises CorruptSampleError if they are damaged, SealedSplitError if they are withheld.
        """
        if self._withheld is not None and self._withheld[index]:
            raise SealedSplitError(f"stimulus {self.keys[index]} ({self.shards.where(int(self.shard[index]))})")
        shard, offset, size = int(self.shard[index]), int(self.offset[index]), int(self.size[index])
        content = self.shards.read_checked(shard, offset, size, int(self.crc32[index]))
        if content is None:
            raise CorruptSampleError(
                f"{self.shards.where(shard)}: stimulus {self.keys[index]} at offset {offset} is damaged (CRC differs)."
            )
        return content

    def image(self, index: int) -> Image.Image:
        """The image, RGB, in its own size. Raises what `encoded` raises."""
        try:
            return decode_image(self.encoded(index))
        except (OSError, ValueError) as error:
            raise CorruptSampleError(
                f"{self.shards.where(int(self.shard[index]))}: stimulus {self.keys[index]} at offset "
                f"{self.offset[index]} is not a readable image: {error}"
            ) from None

    def images(self, indices: Sequence[int] | np.ndarray, size_px: int) -> np.ndarray:
        """uint8 [n, 3, size_px, size_px]: centre-cropped and resampled; decoded once while the cache has room."""
        if size_px < 1:
            raise UserError(f"image size {size_px} px; it must be positive.")
        batch = np.empty((len(indices), 3, size_px, size_px), dtype=np.uint8)
        for position, index in enumerate(indices):
            batch[position] = self._square(int(index), size_px)
        return batch

    def _square(self, index: int, size_px: int) -> np.ndarray:
        with self._lock:
            cached = self._cache.get((index, size_px))
            if cached is not None:
                self._cache.move_to_end((index, size_px))
                return cached
        image = square_image(self.image(index), size_px)
        with self._lock:
            if (index, size_px) not in self._cache:
                self._cache[index, size_px] = image
                self._cached += image.nbytes
            while self._cached > self._cache_bytes:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
        return image
