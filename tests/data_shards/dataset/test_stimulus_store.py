"""Stimuli by their row: decoded images within a bound of memory, from several threads, damage named."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.images import square_image
from neuroimagen.data_shards.format.storage import CorruptSampleError


def test_images_are_the_squares_of_the_stored_ones(make_dataset: Any) -> None:
    stimuli = make_dataset().stimuli
    assert len(stimuli) == 9
    images = stimuli.images([3, 0, 3], 12)
    assert (images.shape, images.dtype) == ((3, 3, 12, 12), np.uint8)
    for image, row in zip(images, (3, 0, 3), strict=True):
        assert np.array_equal(image, square_image(stimuli.image(row), 12))
    assert stimuli.images(np.array([], dtype=np.int64), 12).shape == (0, 3, 12, 12)
    with pytest.raises(UserError, match="image size 0 px"):
        stimuli.images([0], 0)


def test_each_image_is_decoded_once_while_there_is_room(make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dataset().folder
    stimuli = Dataset.open(folder, image_cache_bytes=3 * 3 * 8 * 8).stimuli  # of three images of 8 px
    decoded: list[int] = []
    image = type(stimuli).image
    monkeypatch.setattr(type(stimuli), "image", lambda self, row: (decoded.append(row), image(self, row))[1])
    for rows in ([0, 1, 2], [0, 1, 2], [0, 3], [0, 2, 3], [1]):
        stimuli.images(rows, 8)
    # 3 takes the place of 1, which was used longest ago.
    assert decoded == [0, 1, 2, 3, 1]
    stimuli.images([1], 16)  # another size is another image, and here larger than the bound
    assert decoded[-1] == 1


def test_threads_read_the_same(make_dataset: Any) -> None:
    stimuli = make_dataset().stimuli
    expected = stimuli.images(range(9), 10)
    again = Dataset.open(make_dataset(name="again").folder, image_cache_bytes=2 * 300).stimuli
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: again.images([row], 10)[0], list(range(9)) * 20))
    assert np.array_equal(np.stack(found), np.concatenate([expected] * 20))


def test_damage_is_named(make_dataset: Any) -> None:
    dataset = make_dataset()
    (shard,) = (dataset.folder / "stimuli").glob("*.tar")
    content = bytearray(shard.read_bytes())
    content[int(dataset.stimuli.offset[4]) + 30] ^= 1
    shard.unlink()  # a new file: the old one may be mapped
    shard.write_bytes(content)
    stimuli = Dataset.open(dataset.folder).stimuli
    with pytest.raises(CorruptSampleError, match=rf"stimulus picture_4 at offset {stimuli.offset[4]} is damaged"):
        stimuli.images([3, 4], 8)
    assert stimuli.images([3, 5], 8).shape[0] == 2
