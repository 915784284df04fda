"""dataset.json: what is written is read, and whatever is wrong is named."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import (
    ClassInfo,
    DatasetMetadata,
    SegmentRecord,
    StimulusRecord,
    metadata_digest,
    npy_header,
    read_metadata,
    segment_json,
    segment_key,
    stimulus_json,
)

METADATA = DatasetMetadata(
    name="noise",
    n_channels=2,
    n_samples=33,
    sfreq=250.0,
    classes=(ClassInfo(name="cat", wnid="n02124075"), ClassInfo(name="dog")),
    band_hz=(1.0, 40.0),
    channel_names=("Cz", "Pz"),
    subjects=(1, 4),
    num_segments=7,
    num_stimuli=2,
    split_counts={"train": 5, "val": 1, "test": 1},
    segment_shards=(65536, 512),
    stimulus_shards=(1024,),
    provenance={"source": "test"},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(METADATA.to_json(), encoding="utf-8")
    assert read_metadata(path) == METADATA
    assert METADATA.to_json() == read_metadata(path).to_json()
    assert METADATA.num_classes == 2


def changed(**changes: Any) -> str:
    """The JSON of METADATA with other fields, and the digest that belongs to them."""
    body = json.loads(METADATA.to_json())
    del body["sha256"]
    body = {name: value for name, value in {**body, **changes}.items() if value != "left out"}
    return json.dumps({**body, "sha256": metadata_digest(body)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_channels": 2.0}, "n_channels is '2.0' where a whole number is expected"),
        ({"n_channels": 0}, "n_channels is 0; it must be 1"),
        ({"num_segments": True}, "num_segments is 'True'"),
        ({"sfreq": "fast"}, "sfreq is 'fast' where a number is expected"),
        ({"sfreq": 0}, "sfreq is 0; it must be a positive number"),
        ({"channel_names": ["Cz"]}, "1 channel names for 2 channels"),
        ({"channel_names": "CzPz"}, "a list of names or null"),
        ({"band_hz": [1]}, r"\[low, high\] or null"),
        ({"classes": [{"name": "cat"}]}, "a list of {name, wnid}"),
        ({"subjects": ["one"]}, "a list of whole numbers"),
        ({"provenance": []}, "an object"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"storage": "left out"}, "field 'storage' is missing"),
        ({"schema_version": 99}, "has schema version 99; this neuroimagen reads 1 and 2"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DatasetMetadata.from_json(changed(**changes), where="dataset.json")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    text = METADATA.to_json()
    with pytest.raises(UserError, match="was changed after it was written"):
        DatasetMetadata.from_json(text.replace("250.0", "251.0"), where="dataset.json")
    with pytest.raises(UserError, match="is not JSON"):
        DatasetMetadata.from_json(text[:-3], where="dataset.json")
    with pytest.raises(UserError, match="no data set at"):
        read_metadata(tmp_path / "dataset.json")


def test_a_segment_s_bytes_are_an_npy_file() -> None:
    stored = np.arange(66, dtype="<f2").reshape(2, 33)
    content = npy_header(2, 33) + stored.tobytes()
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), stored)
    fields = {"label": 1, "stimulus": "s", "subject": 2, "block": -1, "order": 3, "split": "train", "scale": 0.5}
    assert json.loads(segment_json(**fields, version=1)) == fields
    time = {"session": "2", "recording": "sub-07 ü", "onset_s": 1.5}
    assert json.loads(segment_json(**fields, **time)) == {**fields, **time}
    assert json.loads(segment_json(**fields)) == {**fields, "session": "", "recording": "", "onset_s": None}
    assert segment_key(12) == "000000012"


def test_a_stimulus_has_a_key_and_an_extension_that_tars_can_hold() -> None:
    stimulus = StimulusRecord(key="a", image=b"", extension="jpg", label=0, caption="an image of cat")
    assert json.loads(stimulus_json(label=0, caption="Kätzchen", detailed_caption=None))["caption"] == "Kätzchen"
    with pytest.raises(UserError, match=r"stimulus key 'a\.b' may hold letters"):
        dataclasses.replace(stimulus, key="a.b")
    with pytest.raises(UserError, match="extension 'bmp' is not one of"):
        dataclasses.replace(stimulus, extension="bmp")


def test_the_longest_segment_json_fits_into_a_tar_block() -> None:
    names = {"session": "é" * 16, "recording": '"' * 60, "stimulus": "k" * 80}
    numbers = dict.fromkeys(("label", "subject", "block", "order"), -(2**31))
    text = segment_json(
        **names, **numbers, split="train", scale=1.1754943508222875e-38, onset_s=-1.2345678901234567e-300
    )
    assert len(text) <= 512
    record = {"eeg": np.zeros((2, 33), np.float32), "label": 0, "subject": 1, "split": "train"}
    SegmentRecord(**record, **names)
    for wrong, message in (
        ({"session": "é" * 17}, "takes 34 bytes; at most 32 fit"),
        ({"recording": "r" * 121}, "recording 'r+' takes 121 bytes; at most 120 fit"),
        ({"recording": "a\nb"}, "cannot be printed"),
        ({"onset_s": float("inf")}, "onset_s is inf"),
    ):
        with pytest.raises(UserError, match=message):
            SegmentRecord(**record, **{**names, **wrong})
