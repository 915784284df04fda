"""The HTML pages: each a template, with the style sheet that all of them share."""

from pathlib import Path
from typing import Any


def render_page(template: Path, **values: Any) -> str:
    """A template's page. Values are escaped unless they are marked safe; one that is missing is an error.

    `css` is the report's style sheet.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(css=css, **values)
