"""Figures as SVG that follows the page's theme."""

import re

from neuroimagen.trainer.report import plots

STAND_INS = (plots.INK, plots.MUTED, plots.GRID, *plots.SERIES)


def draw() -> object:
    with plots.themed_pyplot() as plt:
        figure, axis = plt.subplots()
        for colour in STAND_INS:
            axis.plot([0, 1], [0, 1], color=colour)
        return figure


def test_a_themed_figure_has_variables_for_colours_and_ids_of_its_own() -> None:
    with plots.themed_pyplot():
        svg, again = (plots.themed_svg(draw(), "mine") for _ in range(2))
    assert svg.startswith("<svg")
    assert not any(colour in svg for colour in STAND_INS)
    assert all(f"var(--series-{number})" in svg for number in range(1, 5))
    ids = set(re.findall(r' id="([^"]+)"', svg))
    assert ids
    assert all(name.startswith("mine-") for name in ids)
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids
    assert svg == again


def test_a_raster_figure_has_the_light_page_s_colours() -> None:
    figure = plots.coloured(draw())
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert not set(colours) & set(STAND_INS)
    assert colours[0] == "#1c1b19"


def test_curves_show_training_and_validation_in_one_panel() -> None:
    lines = [{"step": 1, "loss": 2.0, "memory_gib": 3.0}, {"step": 2, "loss": 1.0}, {"step": 2, "val_loss": 1.5}]
    svg = plots.curves_svg(lines, name="curves")
    assert svg is not None
    assert svg.count(">loss<") == 1
    assert "memory" not in svg
    assert "var(--series-2)" in svg
    assert plots.curves_svg([{"step": 1, "segments_per_second": 5.0}], name="curves") is None
