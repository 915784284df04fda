"""Checks of the images: equal or nearly equal ones under different names."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.findings import Finding, listed
from neuroimagen.data_shards.dataset.stimulus_store import StimulusStore

Integers = NDArray[np.integer]
NEAR_BITS = 3
"""Images whose 256-bit fingerprints differ in at most this many bits count as near duplicates."""
HASH_PX = 16
"""Side of the grid that a fingerprint is made of."""
_FLAT_GREY_LEVELS = 12
_CHUNK = 2048


def compare_images(stimuli: StimulusStore) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Decode every image once: the SHA-256 of its size and pixels, and its fingerprint, bool [stimuli, 256]."""
    digests, prints = [], []
    for number in track(range(len(stimuli)), total=len(stimuli), desc="images"):
        image = stimuli.image(number)
        digests.append(hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest())
        prints.append(fingerprint(np.asarray(image.convert("L").resize((HASH_PX + 1, HASH_PX)))))
    return digests, np.stack(prints)


def check_equal_images(
    content: Sequence[bytes],
    fingerprints: NDArray[np.bool_],
    stimuli: Integers,
    splits: Integers,
    keys: Sequence[str],
) -> Iterator[Finding]:
    """No image equals one of another name, and no test image is nearly a training or validation image.

    content: of each stimulus, something that is equal where the pixels are. Copies that the test split shares with
    training or validation are a problem; other copies are noted, because they are one image under two names.
    """
    training = np.unique(stimuli[splits != 2])
    test = np.setdiff1d(np.unique(stimuli[splits == 2]), training)
    owners: dict[bytes, int] = {content[number]: number for number in training.tolist()}
    equal = [(number, owners[content[number]]) for number in test.tolist() if content[number] in owners]
    near = [pair for pair in near_pairs(fingerprints, test, training) if content[pair[0]] != content[pair[1]]]
    first: dict[bytes, int] = {}
    others = [
        (number, first[each])
        for number, each in enumerate(content)
        if first.setdefault(each, number) != number and (number, owners.get(each)) not in equal
    ]
    named = (
        (
            equal,
            "test images are copies of a training or validation image: the same pixels under another name",
            "problem",
        ),
        (
            others,
            "other images are copies: the same pixels under another name, so that one image counts as several",
            "note",
        ),
        (near, "test images are nearly the same image as a training or validation image of another name", "note"),
    )
    for pairs, what, level in named:
        if pairs:
            examples = listed([f"{keys[one]} = {keys[other]}" for one, other in pairs])
            count = len({one for one, _ in pairs})
            yield Finding(
                check="images",
                level=level,  # type: ignore[arg-type]
                text=f"{count} {what} ({examples})",
                figures={"images": count},
                stimuli=tuple(pairs),
            )
    if not equal and not near and not others:
        text = "no image is a copy of one of another name"
        yield Finding(check="images", level="good", text=text, figures={"images": 0})


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Difference hash of a grey image [16, 17]: which pixels are clearly brighter than their left neighbour, [256].

    The margin keeps noise in flat areas out of the fingerprint.
    """
    return (np.diff(grey.astype(np.int64), axis=1) > _FLAT_GREY_LEVELS).ravel()


def near_pairs(fingerprints: NDArray[np.bool_], test: Integers, training: Integers) -> list[tuple[int, int]]:
    """Pairs (test, training stimulus) whose fingerprints differ in at most NEAR_BITS bits; flat images form none."""
    signs = fingerprints.astype(np.float32)
    weight = signs.sum(axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(test), _CHUNK):
        rows = test[start : start + _CHUNK]
        differing = weight[rows][:, None] + weight[training][None] - 2 * signs[rows] @ signs[training].T
        distinctive = (weight[rows] > 4 * NEAR_BITS)[:, None]
        for one, other in np.argwhere((differing <= NEAR_BITS) & distinctive):
            pairs.append((int(rows[one]), int(training[other])))
    return pairs
