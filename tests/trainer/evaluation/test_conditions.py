"""The table of conditions."""

from neuroimagen.trainer.evaluation.conditions import CONDITIONS, condition_of, present_name
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS
from neuroimagen.trainer.report.tables import GROUP_TITLES


def test_the_image_conditions_come_first_and_every_group_has_a_title() -> None:
    assert tuple(CONDITIONS)[: len(IMAGE_CONDITIONS)] == tuple(IMAGE_CONDITIONS)
    for name, image_condition in IMAGE_CONDITIONS.items():
        condition = CONDITIONS[name]
        assert (condition.title, condition.text) == (image_condition.title, image_condition.text)
        assert condition.group == image_condition.group
    assert {condition.group for condition in CONDITIONS.values()} == set(GROUP_TITLES)
    assert len({condition.title for condition in CONDITIONS.values()}) == len(CONDITIONS)


def test_a_condition_of_another_package_goes_by_its_name() -> None:
    assert condition_of("another_one").title == "another one"
    assert condition_of("full") is CONDITIONS["full"]


def test_former_names_lead_to_conditions() -> None:
    former = ("phantom_drift", "phantom_drift_detrended", "phantom_full", "phantom_eeg_classifier")
    assert len({present_name(name) for name in former} & set(CONDITIONS)) == len(former)
    assert present_name("full") == "full"
