"""Which image files can be stored, as what, and what is said of them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_files import write_image

from neuroimagen.data_shards.format.images import decode_image
from neuroimagen.data_shards.sources.readers import images
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def files(folder: Path, *names: str) -> ImageFiles:
    return ImageFiles({name: folder / name for name in names})


def test_images_that_need_no_change_are_stored_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a.jpg", "c.jpg", "b.png"):
        write_image(tmp_path / name, 0)
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(PIXELS).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(PIXELS).convert("RGBA").save(tmp_path / "opaque.png")
    for names in (("a.jpg", "c.jpg"), ("b.png", "grey.png", "palette.png", "opaque.png")):
        found = files(tmp_path, *names)
        assert (found.problems, found.notes) == ({}, [])
        for name in names:
            assert found.read(name) == ((tmp_path / name).read_bytes(), name[-3:])


def test_jpeg_files_among_others_are_stored_as_png_with_the_same_pixels(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.jpg"):
        write_image(tmp_path / name, 0)
    found = files(tmp_path, "a.jpg", "b.png", "c.jpg")
    (note,) = found.notes
    assert note.startswith("2 of 3 images are JPEG and the others are not: all are stored as PNG")
    assert found.read("b.png") == ((tmp_path / "b.png").read_bytes(), "png")
    content, extension = found.read("a.jpg")
    assert extension == "png"
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(np.asarray(decode_image(content)), np.asarray(image))


def test_images_that_change_are_stored_as_png_and_named(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    cut_out = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, dtype=np.uint8)])
    cut_out[:, :4, 3] = 0
    Image.fromarray(cut_out).save(tmp_path / "cut_out.png")
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    found = files(tmp_path, "turned.png", "deep.png", "cut_out.png", "a.bmp")
    assert found.notes == [
        "1 image turned as the EXIF orientation says and stored as PNG: turned.png",
        "1 image scaled from 0..65535 to 0..255 and stored as PNG: deep.png",
        "1 image transparent parts made white and stored as PNG: cut_out.png",
    ]
    expected = {
        "turned.png": np.rot90(PIXELS, -1),
        "deep.png": np.full((4, 4, 3), 128),
        "cut_out.png": np.where(cut_out[..., 3:] == 0, 255, PIXELS),
        "a.bmp": PIXELS,
    }
    for name, pixels in expected.items():
        content, extension = found.read(name)
        assert extension == "png"
        # By PIL alone, and by our rules: what is stored needs none of them any more.
        with Image.open(io.BytesIO(content)) as stored:
            np.testing.assert_array_equal(np.asarray(stored), pixels)
        np.testing.assert_array_equal(np.asarray(decode_image(content)), pixels)


def test_every_problem_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 100)
    write_image(tmp_path / "cut.jpg", 0)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (11, 10)).save(tmp_path / "large.png")
    frames = [Image.new("L", (4, 4), colour) for colour in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    write_image(tmp_path / "good.png", 0)
    found = files(tmp_path, "none.jpg", "cut.jpg", "text.png", "folder", "large.png", "film.gif", "good.png")
    assert list(found.problems) == ["none.jpg", "cut.jpg", "text.png", "folder", "large.png", "film.gif"]
    assert found.problems["none.jpg"] == "missing"
    assert found.problems["folder"] == "unreadable: it is a folder, not a file"
    assert found.problems["cut.jpg"].startswith("unreadable: ")
    assert found.problems["text.png"].startswith("unreadable: cannot identify image")
    assert found.problems["large.png"].startswith("unreadable: 11 × 10 pixels; at most")
    assert found.problems["film.gif"] == "unreadable: 2 frames; a stimulus is one image"


def test_other_endings_and_letter_cases_are_found_and_said(tmp_path: Path) -> None:
    for name in ("a.jpg", "B.PNG", "c.png", "c.jpg", "e.x.jpeg", "f.jpg"):
        write_image(tmp_path / name, 0)
    found = files(tmp_path, "a.JPEG", "b.png", "c.tif", "d.png", "e.x", "f.png", "f.jpg")
    assert found.problems == {
        "c.tif": "unreadable: it could be c.jpg or c.png",
        "d.png": "missing",
        "f.png": "missing",  # f.jpg is another image of the table
    }
    assert "3 images found under another ending or letter case: a.JPEG → a.jpg, b.png → B.PNG" in found.notes[-1]
    found = files(tmp_path, "a.JPEG", "e.x", "f.jpg")
    assert found.notes == ["2 images found under another ending or letter case: a.JPEG → a.jpg, e.x → e.x.jpeg"]
    assert found.read("a.JPEG") == ((tmp_path / "a.jpg").read_bytes(), "jpg")


def test_long_lists_are_cut() -> None:
    problems = {f"{number}.jpg": "missing" for number in range(3)}
    assert listed(problems, limit=2) == "0.jpg (missing), 1.jpg (missing) …"
    assert listed(problems, limit=3) == listed(problems, limit=None)
    assert listed({}) == ""
