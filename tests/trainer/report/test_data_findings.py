"""Views of what looks odd: drawn where the checks find it, from the data that they found."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DatasetWriter
from neuroimagen.trainer.report import data_findings, data_views, plots


def written(folder: Path, *, odd: bool) -> Dataset:
    """Three subjects see 6 images; `odd`: with an eye channel, few trials, shared samples, copies and two spellings."""
    rng = np.random.default_rng(0)
    names = ("cup", "Cup") if odd else ("cup", "dog")
    metadata = DatasetMetadata(
        name="t",
        n_channels=4,
        n_samples=50,
        sfreq=100.0,
        classes=tuple(ClassInfo(name=name) for name in names),
        channel_names=("Fz", "Cz", "VEOG" if odd else "Pz", "Oz"),
    )
    with DatasetWriter(folder, metadata) as writer:
        for number in range(6):
            pixels = np.random.default_rng(0 if odd and number > 3 else number).integers(
                0, 255, (9, 9, 3), dtype=np.uint8
            )
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=number)
            stimulus = StimulusRecord(
                key=f"s{number}", image=buffer.getvalue(), extension="png", label=number % 2, caption="an image"
            )
            writer.add_stimulus(stimulus)
        for row in range(45):
            if odd and row > 30 and row % 3 == 2:
                continue
            record = SegmentRecord(
                eeg=rng.standard_normal((4, 50)).astype(np.float32),
                stimulus=f"s{row % 6}",
                label=row % 2,
                subject=1 + (row % 3 if not odd else min(row // 20, 2)),
                split=("train", "train", "train", "train", "val", "test")[row % 6],
                recording=f"r{row % 3 if not odd else min(row // 20, 2)}",
                onset_s=row * (0.2 if odd else 1.0),
            )
            writer.add_segment(record)
    return Dataset.open(folder)


def test_every_odd_thing_has_its_view(tmp_path: Path) -> None:
    checks = data_findings.check_data(written(tmp_path / "data", odd=True))
    shown = {view.title: view for view in data_views.views_of_checks(checks)}
    assert list(shown) == ["Channels", "Segments per subject", "Segments that share samples", "Equal images"]
    assert "VEOG; by name" in shown["Channels"].text
    assert "subject 3" in shown["Segments per subject"].text
    assert "test segments share samples with train segments" in shown["Segments that share samples"].text
    assert "copies" in shown["Equal images"].text
    assert "'cup' and 'Cup'" in shown["Equal images"].text
    assert set(data_findings.equal_images(checks)) >= {(4, 0)}
    plt = plots.pyplot()
    for view in shown.values():
        figure = view.draw(plt)
        assert figure.axes
        plt.close(figure)


def test_what_is_drawn_is_what_the_data_set_holds(tmp_path: Path) -> None:
    checks = data_findings.check_data(written(tmp_path / "data", odd=True))
    plt = plots.pyplot()
    bars = data_findings.draw_trials(plt, checks).axes[0].containers
    index = checks.dataset.index
    for split, container in enumerate(bars):
        expected = [int(((index.subject == s) & (index.split_code == split)).sum()) for s in (1, 2, 3)]
        assert [bar.get_height() for bar in container] == expected
    lines = data_findings.draw_shared_samples(plt, checks).axes[0].lines
    drawn = sorted(round(float(line.get_xdata()[0]), 3) for line in lines)
    one, other = checks.shared.examples[0]  # type: ignore[union-attr]
    assert {round(float(index.onset_s[one]), 3), round(float(index.onset_s[other]), 3)} <= set(drawn)
    assert all(np.isclose(np.diff(line.get_xdata()), 0.5) for line in lines)
    points = data_findings.draw_channels(plt, checks).axes[0].lines
    np.testing.assert_allclose(points[0].get_ydata(), checks.measured.deviation)  # type: ignore[union-attr]
    assert points[1].get_xdata().tolist() == [2]
    plt.close("all")


def test_a_clean_data_set_has_no_view_of_faults(tmp_path: Path) -> None:
    checks = data_findings.check_data(written(tmp_path / "data", odd=False))
    assert [view.title for view in data_views.views_of_checks(checks)] == ["Channels", "Segments per subject"]
    assert checks.shared is None
    assert data_views.views_of_checks(checks)[0].text.endswith("No channel stands out.")


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_file_has_the_views(tmp_path: Path, suffix: str) -> None:
    from neuroimagen.trainer.report.data_averages import average

    out = tmp_path / f"views.{suffix}"
    data_views.write_views(average(written(tmp_path / "data", odd=True), split="train"), out)
    if suffix == "html":
        assert "Segments that share samples" in out.read_text(encoding="utf-8")
    else:
        with Image.open(out) as image:
            assert image.height > 2000
