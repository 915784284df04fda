"""Tables as text."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.tables.text_table import read_columns, read_text_table


def test_every_column_is_text_without_outer_blanks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffname, number ,text\r\n a ,01,"x, y"\r\nNA,1.0,"two\nlines"\r\n'.encode())
    assert read_columns(path) == {"name": ["a", "NA"], "number": ["01", "1.0"], "text": ["x, y", "two\nlines"]}
    tsv = tmp_path / "t.tsv"
    tsv.write_text('onset\ttrial_type\n1.5\t"odd\nn/a\tb\n')
    assert read_columns(tsv) == {"onset": ["1.5", "n/a"], "trial_type": ['"odd', "b"]}
    (tmp_path / "head.csv").write_text("a,b\n")
    assert read_columns(tmp_path / "head.csv") == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2,3\n", r"cannot read .*Expected 2 columns, got 3"),
        (b"a,b\n1\n", r"cannot read .*Expected 2 columns, got 1"),
        (b"a,a\n1,2\n", "two columns 'a'"),
        ("a,b\nä,2\n".encode("latin-1"), r"cannot read .*UTF8"),
        ("ä,b\n1,2\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text_table(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_text_table(tmp_path / "none.csv")
