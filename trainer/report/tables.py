"""The table of results, for the HTML page, in Markdown and in LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuroimagen.data_shards.common.console import printable_line
from neuroimagen.trainer.evaluation.conditions import condition_of, present_name
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, metric_of
from neuroimagen.trainer.evaluation.results import Result, find, format_value, noted_title, ordered_conditions

GROUP_TITLES = {
    "model": "The model",
    "ablation": "Ablations",
    "oracle": "Oracles of the generator",
    "floor": "Floors of the generator",
    "eeg": "From the EEG alone",
    "transductive": "With the whole test split in hand (transductive)",
    "baseline": "Baselines",
    "nuisance": "Nuisance conditions",
    "reference": "Guessing and the ceiling",
    "difference": "Comparisons",
}


def table_view(
    results: Sequence[Result],
    main_metrics: Sequence[str],
    *,
    notes: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Columns, groups of conditions, cells and definitions; columns that are not `main` are shown on demand.

    `notes`: condition → what stands beside its title. `texts`: condition → what it is in this run.
    """
    present = dict.fromkeys(item.metric for item in results)
    metrics = [name for name in dict.fromkeys([*main_metrics, *METRICS, *present]) if name in present]
    columns = [
        {
            "metric": metric,
            "title": metric_of(metric).title,
            "unit": "%" if metric_of(metric).is_share else "",
            "arrow": "↑" if metric_of(metric).higher_is_better else "↓",
            "main": metric in main_metrics,
            "definition": next(item.definition for item in results if item.metric == metric),
            "number": number,
        }
        for number, metric in enumerate(metrics, start=1)
    ]
    groups: dict[str, list[dict[str, Any]]] = {group: [] for group in GROUP_TITLES}
    for name in ordered_conditions(results):
        condition = condition_of(name)
        cells = [_cell(results, name, metric) for metric in metrics]
        groups[condition.group].append(
            {
                "name": name,
                "title": condition.title,
                "note": (notes or {}).get(name),
                "text": (texts or {}).get(name, condition.text),
                "cells": cells,
            }
        )
    return {
        "columns": columns,
        "groups": [
            {"title": GROUP_TITLES[group], "conditions": members} for group, members in groups.items() if members
        ],
    }


def preset_view(results: Sequence[Result], details: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures of a preset as the page's table has them, with its title and notes; None where none was on."""
    preset = details.get("preset")
    if not preset or not preset["metrics"]:
        return None
    own = [item for item in results if item.metric in preset["metrics"]]
    table = table_view(own, preset["metrics"], notes=details.get("notes"))
    return {"title": preset["title"], "notes": preset["notes"], **table}


def _cell(results: Sequence[Result], condition: str, metric: str) -> dict[str, Any] | None:
    found = find(results, condition, metric)
    if found is None:
        return None
    value, interval = figure_texts(found)
    return {
        "value": value,
        "interval": interval,
        "n": found.n,
        "definition": found.definition,
        "main": metric,
        "bar": max(0.0, min(1.0, found.value)) if metric_of(metric).is_share else None,
    }


def figure_texts(found: Result) -> tuple[str, str]:
    """A figure and its interval (empty if there is none); differences have their sign."""

    def text(value: float) -> str:
        sign = "+" if "_minus_" in found.condition and value > 0 else ""
        return sign + format_value(found.metric, value).replace("-", "−")

    if found.low is None or found.high is None:
        return text(found.value), ""
    return text(found.value), f"{text(found.low)} – {text(found.high)}"


def condition_texts(details: Mapping[str, Any]) -> dict[str, str]:
    """What conditions are, with what their images were made from in this run."""
    return {
        name: f"{condition_of(name).text}; made of: {made_of}" for name, made_of in details.get("made_of", {}).items()
    }


def absent_conditions(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Titles of the conditions that were asked for and could not be measured, each with the reason."""
    return [(condition_of(present_name(name)).title, reason) for name, reason in details.get("absent", {}).items()]


def markdown_report(results: Sequence[Result], details: Mapping[str, Any], *, rank_rule: str) -> str:
    """report.md: verdict, table of the main metrics, image grid, definitions."""
    metrics = details["table_metrics"]
    lines = ["# Report", ""]
    for sentence in details["verdict"]:
        lines += [f"**{markdown(sentence['heading'])}.** {markdown(sentence['text'])}", ""]
    lines += _markdown_table(results, metrics, notes=details.get("notes"))
    lines += ["", "Figures in brackets are 95 % intervals by bootstrap over stimuli.", ""]
    for title, reason in absent_conditions(details):
        lines += [f"Not measured: {markdown(title)}, {markdown(reason)}.", ""]
    lines += [
        f"![what was seen and what was reconstructed, for every class: {rank_rule}](grid.png)",
        "",
        f"Shown: {rank_rule}.",
        "",
    ]
    preset = details.get("preset") or {"metrics": [], "notes": []}
    if preset["metrics"]:
        lines += [f"## {preset['title']}", ""]
        lines += _markdown_table(results, preset["metrics"], notes=details.get("notes"))
        for note in preset["notes"]:
            lines += ["", markdown(note)]
        lines.append("")
    lines += ["## Definitions", ""]
    for metric in [*metrics, *preset["metrics"]]:
        definition = next((item.definition for item in results if item.metric == metric), None)
        if definition is not None:
            lines.append(f"- **{metric_of(metric).title}**: {markdown(definition)}.")
    texts = condition_texts(details)
    for name in ordered_conditions(results):
        text = texts.get(name, condition_of(name).text)
        lines.append(f"- **{markdown(condition_of(name).title)}**: {markdown(text)}.")
    return "\n".join(lines) + "\n"


def _markdown_table(results: Sequence[Result], metrics: Sequence[str], *, notes: Mapping[str, str] | None) -> list[str]:
    """The lines of a table: a condition each, of those that have one of the metrics."""
    titles = [metric_of(metric).title + (", %" if metric_of(metric).is_share else "") for metric in metrics]
    lines = [f"| condition | {' | '.join(titles)} |", f"|---|{'---:|' * len(metrics)}"]
    for name in ordered_conditions(results):
        cells = [_markdown_cell(find(results, name, metric)) for metric in metrics]
        if any(cells):
            lines.append(f"| {markdown(noted_title(name, notes))} | {' | '.join(cells)} |")
    return lines


def _markdown_cell(found: Result | None) -> str:
    if found is None:
        return ""
    value, interval = figure_texts(found)
    return f"{value} [{interval}]" if interval else value


def latex_table(results: Sequence[Result], metrics: Sequence[str], *, notes: Mapping[str, str] | None = None) -> str:
    """The main metrics as a booktabs table; needs \\usepackage{booktabs}."""
    titles = [escaped(metric_of(metric).title) + (r" (\%)" if metric_of(metric).is_share else "") for metric in metrics]
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"\toprule",
        rf" & {' & '.join(titles)} \\",
        r"\midrule",
    ]
    for name in ordered_conditions(results):
        cells = []
        for metric in metrics:
            found = find(results, name, metric)
            value, interval = (text.replace("−", "$-$") for text in (figure_texts(found) if found else ("", "")))
            cells.append(f"{value} {{\\scriptsize [{interval.replace(' – ', ', ')}]}}" if interval else value)
        if any(cells):
            lines.append(rf"{escaped(noted_title(name, notes))} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


_LATEX = {
    **{character: f"\\{character}" for character in "%&_#${}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"},
}


def escaped(text: str) -> str:
    """Text in which LaTeX finds no command: special characters escaped, control characters shown, on one line."""
    return "".join(_LATEX.get(character, character) for character in printable_line(text))


def markdown(text: str) -> str:
    """Text in which Markdown finds no HTML, link or column, on one line."""
    for character, replacement in {"&": "&amp;", "<": "&lt;", "|": r"\|", "[": r"\[", "`": r"\`"}.items():
        text = text.replace(character, replacement)
    return printable_line(text)
