"""The table of results as the page, Markdown and LaTeX show it."""

from neuroimagen.trainer.evaluation.results import Result
from neuroimagen.trainer.report.tables import (
    absent_conditions,
    escaped,
    figure_texts,
    latex_table,
    markdown,
    markdown_report,
    table_view,
)

MAIN = ("accuracy", "ssim")


def figure(condition: str, metric: str, value: float, low: float | None = None, high: float | None = None) -> Result:
    text = f"{metric} of {condition}"
    return Result(condition=condition, metric=metric, value=value, low=low, high=high, n=8, definition=text)


RESULTS = [
    figure("chance", "accuracy", 0.25),
    figure("full", "accuracy", 0.5, 0.4, 0.6),
    figure("full", "ssim", 0.3125, 0.25, 0.375),
    figure("full", "fid", 12.5),
    figure("full_minus_semantic_only", "ssim", -0.0625, -0.125, 0.0),
    figure("full", "metric_of_another_package", 7.0),
]


def test_the_page_s_table_has_every_metric_and_groups_in_their_order() -> None:
    view = table_view(RESULTS, MAIN)
    assert [(column["metric"], column["main"], column["unit"], column["arrow"]) for column in view["columns"]] == [
        ("accuracy", True, "%", "↑"),
        ("ssim", True, "", "↑"),
        ("fid", False, "", "↓"),
        ("metric_of_another_package", False, "", "↑"),
    ]
    assert [group["title"] for group in view["groups"]] == ["The model", "Guessing and the ceiling", "Comparisons"]
    (model,) = view["groups"][0]["conditions"]
    assert (model["name"], model["title"]) == ("full", "full model")
    assert [cell and (cell["value"], cell["interval"]) for cell in model["cells"]] == [
        ("50.0", "40.0 – 60.0"),
        ("0.312", "0.250 – 0.375"),
        ("12.5", ""),
        ("7.000", ""),
    ]
    (chance,) = view["groups"][1]["conditions"]
    assert chance["cells"][1] is None


def test_differences_have_their_sign() -> None:
    assert figure_texts(RESULTS[4]) == ("−0.062", "−0.125 – 0.000")
    assert figure_texts(figure("full_minus_semantic_only", "accuracy", 0.1)) == ("+10.0", "")


def test_markdown_and_latex_show_the_main_metrics() -> None:
    details = {
        "table_metrics": MAIN,
        "verdict": [{"heading": "A heading", "text": "A text.", "tone": "good"}],
        "absent": {"phantom_full": "a reason"},
    }
    lines = markdown_report(RESULTS, details, rank_rule="the best").splitlines()
    assert "**A heading.** A text." in lines
    assert "| condition | accuracy, % | SSIM |" in lines
    assert "| full model | 50.0 [40.0 – 60.0] | 0.312 [0.250 – 0.375] |" in lines
    assert "| chance | 25.0 |  |" in lines
    assert "Not measured: drift surrogate, whole pipeline, a reason." in lines
    assert "- **accuracy**: accuracy of chance." in lines
    assert absent_conditions({}) == []
    latex = latex_table(RESULTS, MAIN)
    made = markdown_report(RESULTS, details | {"made_of": {"full": "class caption, saliency map"}}, rank_rule="")
    assert "; made of: class caption, saliency map." in made
    noted = {"notes": {"full": "headline, 10 of 24 segments"}}
    title = "full model [headline, 10 of 24 segments]"
    assert any(
        line.startswith(f"| {markdown(title)} |")
        for line in markdown_report(RESULTS, details | noted, rank_rule="").split("\n")
    )
    assert f"{title} & 50.0" in latex_table(RESULTS, MAIN, **noted)
    view = table_view(RESULTS, MAIN, **noted, texts={"full": "made of a and b"})
    (model,) = view["groups"][0]["conditions"]
    assert (model["note"], model["text"]) == (noted["notes"]["full"], "made of a and b")
    assert r"full model & 50.0 {\scriptsize [40.0, 60.0]} & 0.312 {\scriptsize [0.250, 0.375]}" in latex
    assert "$-$0.062" in latex
    assert escaped("50 % & a_b #1 $") == r"50 \% \& a\_b \#1 \$"
