"""Which latents a store holds: one per image or per distinct caption."""

import dataclasses

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_items import LatentItems


@dataclasses.dataclass
class ThreeStimuli:
    keys: tuple[str, ...] = ("n1_0", "n1_1", "n2_0")
    captions: tuple[str, ...] = ("a dog", "a dog", "a cat")
    detailed_captions: tuple[str | None, ...] = ("a cat on a mat", "a red dog", "a cat on a mat")
    crc32: np.ndarray = dataclasses.field(default_factory=lambda: np.array([1, 2, 3], dtype=np.uint32))


def test_equal_captions_share_a_latent_and_images_do_not() -> None:
    images = LatentItems.of(ThreeStimuli(), "vae")
    assert (list(images.keys), images.texts, images.latent_of.tolist()) == (["n1_0", "n1_1", "n2_0"], None, [0, 1, 2])
    classes = LatentItems.of(ThreeStimuli(), "pooled-class")
    assert (classes.texts, classes.latent_of.tolist()) == (["a dog", "a cat"], [0, 0, 1])
    detailed = LatentItems.of(ThreeStimuli(), "text-detailed")
    assert (detailed.texts, detailed.latent_of.tolist()) == (["a cat on a mat", "a red dog"], [0, 1, 0])
    assert all(key.startswith("caption-") for key in (*classes.keys, *detailed.keys))
    assert len({*classes.keys, *detailed.keys}) == 4
    assert LatentItems.of(ThreeStimuli(), "text-blip").texts is None  # known only when BLIP has made them


def test_the_digest_is_of_what_is_encoded() -> None:
    def digests(stimuli: ThreeStimuli) -> list[str]:
        return [LatentItems.of(stimuli, kind).digest for kind in ("vae", "image", "text-class", "text-detailed")]

    vae, image, classes, detailed = digests(ThreeStimuli())
    assert vae == image
    assert len({vae, classes, detailed}) == 3
    other_image = digests(ThreeStimuli(crc32=np.array([1, 2, 4], dtype=np.uint32)))
    assert other_image[0] != vae
    assert other_image[2:] == [classes, detailed]
    other_caption = digests(ThreeStimuli(captions=("a dog", "a dog", "a bat")))
    assert other_caption[2] != classes
    assert (other_caption[0], other_caption[3]) == (vae, detailed)


def test_a_missing_caption_is_named() -> None:
    stimuli = ThreeStimuli(detailed_captions=("a cat", None, None))
    with pytest.raises(UserError, match=r"2 stimuli have no detailed caption \(n1_1 …\), so text-detailed cannot"):
        LatentItems.of(stimuli, "text-detailed")


def test_class_captions_are_encoded_once_each(cached: tuple) -> None:
    _, _, stores = cached
    assert stores["text-class"].store.metadata.num_latents == 12
    assert len(stores["text-class"].store) == 14
    assert stores["vae"].store.metadata.num_latents == 14
