"""Images without a data set are those that the data set's own segments give."""

from collections.abc import Callable

import numpy as np
import pytest
from untrained_run import close

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.reconstruction.drawing import Drawing
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor


class Recorded:
    """Segments that note what was asked for."""

    def __init__(self, reconstructor: Reconstructor) -> None:
        self._dataset = reconstructor.dataset
        self.asked: list[int] = []

    def eeg(self, rows: Integers) -> Floats:
        self.asked += rows.tolist()
        return np.stack([self._dataset.eeg(row) for row in rows.tolist()])

    def subjects(self, rows: Integers) -> Integers:
        return self._dataset.index.subject[rows].astype(np.int64)


@pytest.fixture
def pair(make_image: Callable[..., Reconstructor]) -> tuple[Reconstructor, Drawing, Recorded]:
    """A reconstructor, and a drawing of the same run that has no data set."""
    whole = make_image()
    segments = Recorded(whole)
    alone = Drawing(whole.run, whole.model, whole.config, segments=segments, eeg_shape=(6, 20))
    return whole, alone, segments


@pytest.mark.parametrize("name", ["full", "image_only", "full_vae_latent"])
def test_the_images_are_the_same(pair: tuple[Reconstructor, Drawing, Recorded], name: str) -> None:
    whole, alone, segments = pair
    items = whole.segment_samples(name)[:3]
    assert np.array_equal(alone.draw(name, items), whole.draw(name, items))
    assert set(segments.asked) == {item.row for item in items}


def test_what_is_drawn_from_the_stimulus_needs_a_data_set(pair: tuple[Reconstructor, Drawing, Recorded]) -> None:
    whole, alone, _ = pair
    items = whole.segment_samples("oracle_class")[:1]
    for name in ("oracle_class", "mean_image", "perfect_saliency"):
        with pytest.raises(AssertionError, match="the stimulus, which is not known"):
            alone.draw(name, items)
    # The same reason keeps conditions with a cached embedding out of a run that has no cache at hand.
    assert alone.allowed.missing("oracle_image") == "no cached latents were given to draw image embeddings from."


def test_other_segments_share_the_networks(pair: tuple[Reconstructor, Drawing, Recorded]) -> None:
    whole, alone, _ = pair

    class Silence(Recorded):
        def eeg(self, rows: Integers) -> Floats:
            return np.zeros((len(rows), 6, 20), dtype=np.float32)

    items = whole.segment_samples("saliency_only")[:2]
    other = alone.with_segments(Silence(whole))
    assert not close(other.draw("saliency_only", items), alone.draw("saliency_only", items))
    assert other.networks is alone.networks
