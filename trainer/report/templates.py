"""Rendering of the HTML pages from their templates, with the style sheet that they share.

Everything that a page shows comes from files that anyone may have written, so one mechanism escapes all of it: Jinja's
autoescaping, which only text of the type `Markup` passes unescaped. Two places make such text: this module, of the
style sheet and the scripts that come with neuroimagen, and plots.themed_svg, of Matplotlib's SVG, which escapes its
texts itself. No template says `|safe`. Should something slip through, the browser does not run it: the page's policy
allows no script but the one whose hash it names, and nothing from the network.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any


def render_page(template: Path, *, script: Path | None = None, **values: Any) -> str:
    """Render a template. A missing value is an error.

    The template gets, beside `values`: the report's style sheet as `css`; as `script` the element with the content of
    the file `script`, which must be one that comes with neuroimagen; and as `policy` the element with the page's
    content security policy.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    code = "" if script is None else script.read_text(encoding="utf-8")
    page = environment.get_template(template.name).render(
        css=Markup(css),
        script=Markup(f"<script>{code}</script>") if code else Markup(""),
        policy=Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(content_policy(code)),
        **values,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # halves of surrogate pairs, which UTF-8 cannot hold


def content_policy(code: str) -> str:
    """A policy that allows images in data: URIs, style sheets in the page, and `code` as its only script."""
    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
    scripts = f"script-src 'sha256-{digest}'; " if code else ""
    return f"default-src 'none'; {scripts}img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
