"""Rendering of the HTML pages from their templates, with the style sheet that they share."""

from pathlib import Path
from typing import Any


def render_page(template: Path, **values: Any) -> str:
    """Render a template. Values are escaped unless the template marks them safe; a missing value is an error.

    The template gets the report's style sheet as `css`.
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
