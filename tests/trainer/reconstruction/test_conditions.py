"""The table of conditions that images are drawn under."""

from pathlib import Path

from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, headline_conditions, unknown_condition


def test_every_condition_is_described_and_says_how_its_images_are_made() -> None:
    assert len(IMAGE_CONDITIONS) == 29
    for name, condition in IMAGE_CONDITIONS.items():
        assert condition.title, name
        assert condition.text, name
        assert condition.is_denoised or condition.start is not None, name
        assert condition.made_of, name
    for key in ("title", "text", "made_of"):
        assert len({getattr(condition, key) for condition in IMAGE_CONDITIONS.values()}) == 29
    ways = {(condition.prompt, condition.start, condition.image) for condition in IMAGE_CONDITIONS.values()}
    assert len(ways) == 29


def test_the_model_is_one_and_a_headline_is_made_of_the_eeg_alone() -> None:
    groups = {name: condition.group for name, condition in IMAGE_CONDITIONS.items()}
    assert [name for name, group in groups.items() if group == "model"] == ["full"]
    assert headline_conditions() == [name for name, group in groups.items() if group in ("model", "ablation")]
    for name, condition in IMAGE_CONDITIONS.items():
        # What is not the EEG's: captions of labels, embeddings and images of stimuli.
        given = condition.prompt in ("true class", "random class") or condition.image in ("true", "other", "mean")
        given = given or (condition.start or "").endswith(("stimulus", "saliency map size"))
        assert given == (condition.group in ("oracle", "floor")), name
        if name in headline_conditions():
            assert condition.sees_eeg


def test_oracles_and_floors_of_the_image_embedding_differ_from_the_model_in_nothing_else() -> None:
    for way, of_model in {"": "image_only", "_and_text": "image_and_text", "_full": "full"}.items():
        model = IMAGE_CONDITIONS[of_model]
        for kind, image in {"oracle_image": "true", "other_image": "other", "mean_image_embedding": "mean"}.items():
            condition = IMAGE_CONDITIONS[f"{kind}{way}"]
            assert (condition.prompt, condition.start, condition.image) == (model.prompt, model.start, image)
        without = IMAGE_CONDITIONS[f"{of_model}_no_prior"]
        assert (without.prompt, without.start) == (model.prompt, model.start)
        assert without.image == "predicted without prior"


def test_the_page_has_every_condition() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "reconstruct.md").read_text(encoding="utf-8")
    assert [name for name in IMAGE_CONDITIONS if f"`{name}`" not in page] == []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    message = unknown_condition("semantics_only")
    assert message.startswith("there is no condition 'semantics_only'. Did you mean 'semantic_only'? There are full, ")
    assert "Did you mean" not in unknown_condition("xyz")
