"""Equal images under other names, by pixels, and nearly equal ones."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from neuroimagen.data_shards.dataset import audit_images as audit
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.findings import Finding
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DatasetWriter

SPLITS = np.array([0, 0, 1, 2, 2])
KEYS = tuple("abcde")


def checked(content: list[bytes], prints: np.ndarray, stimuli: np.ndarray | None = None) -> list[Finding]:
    return list(audit.check_equal_images(content, prints, np.arange(5) if stimuli is None else stimuli, SPLITS, KEYS))


def test_copies_are_found_between_the_splits_and_within_one() -> None:
    prints = np.random.default_rng(0).random((5, 256)) < 0.5
    content = [b"1", b"2", b"3", b"4", b"5"]
    assert [finding.level for finding in checked(content, prints)] == ["good"]
    content[3] = b"2"
    prints[4] = prints[0]
    prints[4, 7] ^= True  # one bit of 256
    found = checked(content, prints)
    assert [finding.level for finding in found] == ["problem", "note"]
    assert "1 test images are copies" in found[0].text
    assert "d = b" in found[0].text
    assert found[0].stimuli == ((3, 1),)
    assert "e = a" in found[1].text
    found = checked([b"1", b"1", b"3", b"4", b"4"], np.random.default_rng(0).random((5, 256)) < 0.5)
    assert [(finding.level, finding.stimuli) for finding in found] == [("note", ((1, 0), (4, 3)))]
    assert "2 other images are copies" in found[0].text


def test_pixels_are_compared_and_not_bytes(tmp_path: Path) -> None:
    """The same pixels in a PNG of another compression are the same image; another shape of equal bytes is not."""
    pixels = np.random.default_rng(1).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    images = [(pixels, 9), (pixels, 0), (pixels.reshape(16, 8, 3), 9), (255 - pixels, 9)]
    encoded = []
    for picture, level in images:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", compress_level=level)
        encoded.append(buffer.getvalue())
    assert encoded[0] != encoded[1]
    metadata = DatasetMetadata(name="t", n_channels=1, n_samples=2, sfreq=1.0, classes=(ClassInfo(name="a"),))
    with DatasetWriter(tmp_path / "data", metadata) as writer:
        for number, image in enumerate(encoded):
            stimulus = StimulusRecord(key=f"s{number}", image=image, extension="png", label=0, caption="an image of a")
            writer.add_stimulus(stimulus)
        eeg = np.ones((1, 2), np.float32)
        writer.add_segment(SegmentRecord(eeg=eeg, stimulus="s0", label=0, subject=1, split="train"))
    digests, prints = audit.compare_images(Dataset.open(tmp_path / "data").stimuli)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert prints.shape == (4, 256)


def test_near_pairs_agree_with_counting_bits_and_flat_images_have_none() -> None:
    rng = np.random.default_rng(1)
    prints = rng.random((30, 256)) < 0.4
    prints[20:25] = prints[:5]
    prints[22, :2] ^= True
    prints[23, :9] ^= True
    prints[[8, 28]] = False  # two flat images
    test, training = np.arange(20, 30), np.arange(20)
    expected = [
        (one, other)
        for one in test
        for other in training
        if (prints[one] != prints[other]).sum() <= audit.NEAR_BITS and prints[one].any()
    ]
    assert audit.near_pairs(prints, test, training) == expected
    assert (28, 8) not in expected
