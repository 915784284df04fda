"""Rendering of pages: values are escaped, missing ones are errors, the style sheet is inside."""

from pathlib import Path

import jinja2
import pytest

from neuroimagen.trainer.report.templates import render_page


def test_values_are_escaped_and_the_style_sheet_is_inside(tmp_path: Path) -> None:
    template = tmp_path / "page.html.j2"
    template.write_text("<style>{{ css|safe }}</style><b>{{ name }}</b>")
    page = render_page(template, name="<i>a & b</i>")
    assert "<b>&lt;i&gt;a &amp; b&lt;/i&gt;</b>" in page
    assert "--ink:" in page
    with pytest.raises(jinja2.UndefinedError, match="name"):
        render_page(template)
