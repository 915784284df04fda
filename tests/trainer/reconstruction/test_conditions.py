"""The table of conditions that images are drawn under."""

from pathlib import Path

from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, unknown_condition


def test_every_condition_is_described_and_says_how_its_images_are_made() -> None:
    assert len(IMAGE_CONDITIONS) == 12
    for name, condition in IMAGE_CONDITIONS.items():
        assert condition.title, name
        assert condition.text, name
        assert condition.prompt is not None or condition.start is not None, name
    assert len({condition.title for condition in IMAGE_CONDITIONS.values()}) == 12
    ways = {(condition.prompt, condition.start) for condition in IMAGE_CONDITIONS.values()}
    assert len(ways) == 12


def test_the_model_is_one_and_floors_and_oracles_see_no_eeg() -> None:
    groups = {name: condition.group for name, condition in IMAGE_CONDITIONS.items()}
    assert [name for name, group in groups.items() if group == "model"] == ["full"]
    from_eeg = {"semantic", "semantic_detailed", "fine_tuned"}
    for condition in IMAGE_CONDITIONS.values():
        sees_eeg = condition.prompt in from_eeg or condition.start == "saliency map"
        assert sees_eeg == (condition.group in ("model", "ablation"))


def test_the_page_has_every_condition() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reconstruct.md").read_text(encoding="utf-8")
    assert [name for name in IMAGE_CONDITIONS if f"`{name}`" not in page] == []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    message = unknown_condition("semantics_only")
    assert message.startswith("there is no condition 'semantics_only'. Did you mean 'semantic_only'? There are full, ")
    assert "Did you mean" not in unknown_condition("xyz")
