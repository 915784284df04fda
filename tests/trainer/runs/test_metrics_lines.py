"""Odd lines of metrics.jsonl are left out and named once."""

import json
from pathlib import Path

import pytest

from neuroimagen.trainer.runs.metrics_lines import metrics_line, read_metrics, read_metrics_lines

ODD = ("[]", "{}", "null", '{"step":"x"}', '{"step":2,"lo', '{"step":-1}', '{"step":1.5}', '{"step":true}', "\x00")
MORE = ('{"step":1,"loss":"high"}', '{"step":1,"loss":' + "9" * 400 + "}", "[" * 10_000, '{"step":9007199254740993}')


@pytest.mark.parametrize("line", [*ODD, *MORE])
def test_an_odd_line_has_no_figures(line: str) -> None:
    assert metrics_line(line) is None


def test_the_others_are_read_and_the_odd_ones_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    good = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("inf")}]
    path.write_text("\n".join([json.dumps(good[0]), *ODD, json.dumps(good[1])]) + '\n{"step":3,"lo')
    assert read_metrics(path) == good
    said = capsys.readouterr().err
    assert said == f"{path}: lines 2, 3, 4 … are not a step's figures and left out\n"
    assert [text for text, _ in read_metrics_lines(path)] == [json.dumps(line) for line in good]
