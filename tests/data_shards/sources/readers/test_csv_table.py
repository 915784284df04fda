"""Tables with a header: what is read, and what is refused."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.csv_table import read_csv_table


def test_csv_and_tsv_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,class\na.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "a.tsv").write_text("\ufeffimage\tclass\na.jpg\tcat\nb.jpg\tdog\n", encoding="utf-8")
    expected = [{"image": "a.jpg", "class": "cat"}, {"image": "b.jpg", "class": "dog"}]
    for name in ("a.csv", "a.tsv"):
        assert read_csv_table(tmp_path / name, ["image"], ["class"]) == (expected, {"image", "class"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class\ncat\n", r"no column 'image'; it needs image, and may have split, caption; its first line is 'class'"),
        ("", "it is empty"),
        ("image,split\na,train\n,val\n", "line 3: image is empty"),
        ("image,split\na,training\n", "line 2: split 'training' is not one of train, val, test"),
        ("image,Split\na,train\n", "column 'Split' is not known; did you mean 'split'"),
        ("image,captions\na,b\n", "column 'captions' is not known; did you mean 'caption'"),
        ("image,session\na,1\n", None),
    ],
)
def test_wrong_tables_name_column_or_line(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    if message is None:
        assert read_csv_table(path, ["image"], ["split", "caption"])[0]
        return
    with pytest.raises(UserError, match=message):
        read_csv_table(path, ["image"], ["split", "caption"])
