"""Which images can be stored, and what is said of the others."""

from pathlib import Path

from PIL import Image
from source_files import write_image

from neuroimagen.data_shards.sources.readers.images import image_extension, image_problem, image_problems, listed


def test_images_that_can_be_stored_have_no_problem(tmp_path: Path) -> None:
    for name, extension in (("a.jpg", "jpg"), ("b.png", "png")):
        write_image(tmp_path / name, 0)
        assert image_problem(tmp_path / name) is None
        assert image_extension((tmp_path / name).read_bytes()) == extension


def test_every_problem_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "cut.jpg", 0)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    Image.new("RGB", (4, 4)).save(tmp_path / "a.bmp")
    (tmp_path / "folder").mkdir()
    write_image(tmp_path / "good.png", 0)
    paths = {name: tmp_path / name for name in ("none.jpg", "cut.jpg", "a.bmp", "folder", "good.png")}
    problems = image_problems(paths)
    assert list(problems) == ["none.jpg", "cut.jpg", "a.bmp", "folder"]
    assert problems["none.jpg"] == "missing"
    assert problems["folder"] == "unreadable: Is a directory"
    assert problems["cut.jpg"].startswith("unreadable: ")
    assert problems["a.bmp"].startswith("unreadable: ")


def test_long_lists_are_cut() -> None:
    problems = {f"{number}.jpg": "missing" for number in range(3)}
    assert listed(problems, limit=2) == "0.jpg (missing), 1.jpg (missing) …"
    assert listed(problems, limit=3) == listed(problems, limit=None)
    assert listed({}) == ""
