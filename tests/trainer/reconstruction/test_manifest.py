"""Manifests as they are read: those of earlier versions, damaged ones, and the settings of two compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.reconstruction.manifest import (
    changed_settings,
    load_manifest,
    read_image,
    read_manifest,
    read_reconstructions,
)

ITEM = {"segment": "s000004", "index": 4, "stimulus": "n1_2", "label": 3, "subject": 1, "sample": 0, "file": "a.png"}


def write(folder: Path, **content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It says `row` where a manifest now says `condition`."""
    settings = {"seed": 0, "guidance": 2.0}
    new = read_manifest(write(tmp_path / "new", condition="full", **settings, items=[ITEM]))
    old = read_manifest(write(tmp_path / "old", row="full", **settings, items=[ITEM]))
    assert old.condition == new.condition == "full"
    assert old.settings == new.settings == settings
    assert (old.segments, old.labels.tolist(), old.files) == (("s000004",), [3], (tmp_path / "old" / "a.png",))


def test_every_condition_of_a_run_is_found(tmp_path: Path) -> None:
    for name in ("mean_image", "full"):
        write(tmp_path / "reconstructions" / name, condition=name, items=[ITEM])
    write(tmp_path / "reconstructions" / "broken-off")
    (tmp_path / "reconstructions" / "broken-off" / "manifest.json").unlink()
    assert sorted(read_reconstructions(tmp_path)) == ["full", "mean_image"]
    with pytest.raises(UserError, match=r"holds no reconstructions\. Run `neuroimagen reconstruct"):
        read_reconstructions(tmp_path / "other")


def test_images_that_share_a_file_are_read_once(tmp_path: Path) -> None:
    folder = write(tmp_path, condition="full", items=[ITEM, {**ITEM, "file": "b.png"}, ITEM])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    images, shown = read_manifest(folder).images()
    assert shown.tolist() == [0, 1, 0]
    assert np.array_equal(images, pixels.transpose(0, 3, 1, 2))
    Image.fromarray(pixels[0, :3]).save(folder / "b.png")
    with pytest.raises(UserError, match=r"b\.png is \(3, 4\) px, others of its condition are \(5, 4\)"):
        read_manifest(folder).images()
    (folder / "b.png").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cannot read the image .*b\.png"):
        read_image(folder / "b.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a manifest of reconstructions"),
        ("[]", "it holds list, not an object"),
        (json.dumps({"items": [ITEM]}), "KeyError.*condition"),
        (json.dumps({"condition": "full", "items": [{"segment": "s"}]}), "KeyError.*stimulus"),
        (json.dumps({"condition": "full", "items": []}), "lists no images"),
        (json.dumps({"condition": "full", "items": [{**ITEM, "file": "../a.png"}]}), "a file outside its folder"),
        (json.dumps({"condition": "full", "items": [{**ITEM, "file": "/a.png"}]}), "a file outside its folder"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=rf"manifest\.json.*{message}"):
        read_manifest(tmp_path)


def test_settings_that_changed() -> None:
    made = {"condition": "full", "steps": 4, "model": "embedded_64px", "model_digest": "ab"}
    assert changed_settings(made, made) == []
    # The folder's name is for people: the digest says whether the model is the same.
    assert changed_settings(made, {**made, "model": "bundled_64px"}) == []
    assert changed_settings(made, {**made, "model": "sd15", "model_digest": "cd"}) == [
        "model 'embedded_64px' → 'sd15'",
        "model_digest 'ab' → 'cd'",
    ]
    assert changed_settings({**made, "dtype": "float16"}, {**made, "steps": 8}) == [
        "steps 4 → 8",
        "dtype 'float16' → None",
    ]
    assert changed_settings({**made, "made_of": "class caption"}, made) == []  # it follows from the other settings
    assert changed_settings({}, {"steps": None}) == ["steps None → None"]
    without = {"condition": "saliency_only", "seed": 0}
    assert changed_settings({**without, "model": "a"}, {**without, "model": "b"}) == ["model 'a' → 'b'"]


def test_a_manifest_keeps_its_other_keys_and_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, row="full", seed=1, items=[]) / "manifest.json"
    assert list(load_manifest(path).items()) == [("condition", "full"), ("seed", 1), ("items", [])]
