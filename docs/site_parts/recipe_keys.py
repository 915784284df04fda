"""The directive `recipe-keys`: every section of a recipe with its keys, defaults and what they mean, from the code."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from neuroimagen.trainer.networks.encoders.registry import ENCODERS
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.recipe.strict_config import plain
from neuroimagen.trainer.stages.config import StageConfig
from neuroimagen.trainer.stages.registry import STAGES, stage_order

_CODE = re.compile(r"`+([^`]+)`+")


def sections() -> Iterator[tuple[str, type, type | None]]:
    """Title, configuration class, and the class whose keys are shown elsewhere, of every section of a recipe."""
    shared = {field.name: field.default_factory for field in dataclasses.fields(Recipe)}
    for name in ("data", "model"):
        yield name, type(shared[name]()), None  # type: ignore[misc, operator]
    for kind in ENCODERS.names():
        yield f"encoder, kind {kind}", ENCODERS[kind].Config, None
    yield "every stage", StageConfig, None
    for name in stage_order():
        yield name, STAGES[name].Config, StageConfig
    for name in ("reconstruct", "evaluate", "log"):
        yield name, type(shared[name]()), None  # type: ignore[misc, operator]


def field_docs(config: type) -> Mapping[str, str]:
    """Key → the docstring under its field, of the class or those it derives from."""
    docs: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        found = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
        docs |= {name: " ".join(lines).strip() for (of, name), lines in found.items() if of == base.__qualname__}
    return docs


def keys(config: type, hidden: type | None) -> list[tuple[str, str, str]]:
    """Key, default and meaning of each field; those of `hidden` are left out where the default is the same."""
    docs = field_docs(config)
    before = {field.name: _default(field) for field in dataclasses.fields(hidden)} if hidden is not None else {}
    return [
        (field.name, _default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(config)
        if before.get(field.name) != _default(field) and not (hidden is None and field.name == "kind")
    ]


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def _words(text: str) -> list[nodes.Node]:
    written: list[nodes.Node] = []
    for number, part in enumerate(_CODE.split(text)):
        written.append(nodes.literal(text=part) if number % 2 else nodes.Text(part))
    return written


def _table(rows: list[tuple[str, str, str]]) -> nodes.table:
    group = nodes.tgroup(cols=3)
    for width in (22, 18, 60):
        group += nodes.colspec(colwidth=width)
    body = nodes.tbody()
    for key, default, meaning in rows:
        cells = ([nodes.literal(text=key)], [nodes.literal(text=default)] if default else [], _words(meaning))
        row = nodes.row()
        for content in cells:
            row += nodes.entry("", nodes.paragraph("", "", *content))
        body += row
    head = nodes.row()
    for title in ("key", "default", ""):
        head += nodes.entry("", nodes.paragraph(text=title))
    group += [nodes.thead("", head), body]
    return nodes.table("", group, classes=["recipe-keys"])


class RecipeKeys(Directive):
    """`recipe-keys`: all sections."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        written: list[nodes.Node] = []
        for title, config, hidden in sections():
            section = nodes.section(ids=[f"section-{nodes.make_id(title)}"], names=[title])
            section += nodes.title(text=title)
            first = inspect.cleandoc(config.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            section += nodes.paragraph("", "", *_words(first))
            rows = keys(config, hidden)
            section += _table(rows) if rows else nodes.paragraph(text="Has the keys of every stage only.")
            written.append(section)
        return written


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("recipe-keys", RecipeKeys)
    return {"parallel_read_safe": True}
