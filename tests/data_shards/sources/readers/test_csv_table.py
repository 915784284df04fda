"""Tables with a header: what is read, and what is refused."""

import math
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.csv_table import read_csv_table


def test_csv_and_tsv_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,class\na.jpg,cat\nb.jpg,dog\n")
    (tmp_path / "a.tsv").write_text("\ufeffimage\tclass\na.jpg\tcat\nb.jpg\tdog\n", encoding="utf-8")
    expected = [{"image": "a.jpg", "class": "cat"}, {"image": "b.jpg", "class": "dog"}]
    for name in ("a.csv", "a.tsv"):
        table = read_csv_table(tmp_path / name, ["image"], ["class"])
        assert (table.rows, table.names, table.notes) == (expected, {"image", "class"}, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class\ncat\n", r"no column 'image'; it needs image, and may have split, caption; its first line is 'class'"),
        ("", "it is empty"),
        ("image,split\na,train\n,val\n", "line 3: image is empty"),
        ("image,split\na,training\n", "line 2: split 'training' is not one of train, val, test"),
        ("image,Split\na,train\n", "column 'Split' is not known; did you mean 'split'"),
        ("image,captions\na,b\n", "column 'captions' is not known; did you mean 'caption'"),
        ("image,partition\na,train\n", "column 'partition' is not known; did you mean 'split'"),
        ("image,split\na,train\nb,val,test\n", "line 3: it has 3 fields, the first line has 2"),
        ("image,split\na\n", "line 2: it has 1 fields, the first line has 2"),
        ("image,split,image\na,train,b\n", "has two columns 'image'"),
    ],
)
def test_wrong_tables_name_column_or_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv_table(path, ["image"], ["split", "caption"])


def test_what_is_not_used_and_what_is_changed_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("image , session,rt,,\n a.png,1,300,,\nb.png,2 ,301,,\n\n")
    table = read_csv_table(path, ["image"], ["caption"])
    assert table.rows == [
        {"image": "a.png", "session": "1", "rt": "300"},
        {"image": "b.png", "session": "2", "rt": "301"},
    ]
    assert table.notes == (
        f"{path}: not used: columns 'session', 'rt'",
        f"{path}: spaces around 2 texts are removed, first ' a.png' in line 2",
    )
    assert table.column("caption", "none") == ("none", "none")


def test_numbers_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("image,order,onset_s\na,3.0,0.5\nb,-1,\n")
    table = read_csv_table(path, ["image"], ["order", "onset_s"])
    assert table.whole_numbers("order", 0).tolist() == [3, -1]
    assert table.whole_numbers("block", -1).tolist() == [-1, -1]
    assert table.numbers("onset_s")[0] == 0.5
    assert math.isnan(table.numbers("onset_s")[1])
    for text, name in (("1.5", "order"), ("x", "order"), ("inf", "onset_s"), ("1,5", "onset_s")):
        path.write_text(f'image,{name}\na,1\nb,"{text}"\n')
        table = read_csv_table(path, ["image"], ["order", "onset_s"])
        with pytest.raises(UserError, match=f"line 3: {name} '{text}' is not a"):
            _ = table.whole_numbers("order", 0) if name == "order" else table.numbers("onset_s")
