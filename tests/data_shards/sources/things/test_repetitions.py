"""--repetitions: one word, or one for each split."""

import pytest

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.things.repetitions import in_words, parse_repetitions


def test_one_word_is_for_all_splits_and_others_are_kept() -> None:
    assert parse_repetitions(["average"]) == {"train": "average", "val": "average", "test": "average"}
    assert parse_repetitions(["test=average"]) == {"train": "keep", "val": "keep", "test": "average"}
    assert parse_repetitions([]) == {"train": "keep", "val": "keep", "test": "keep"}
    assert in_words(parse_repetitions(["keep"])) == "keep"
    assert in_words(parse_repetitions(["test=average"])) == {"train": "keep", "val": "keep", "test": "average"}


@pytest.mark.parametrize("words", [["mean"], ["training=keep"], ["train=mean"], ["keep", "average"], ["train="]])
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="is neither keep nor average"):
        parse_repetitions(words)


def test_a_split_has_one_treatment() -> None:
    with pytest.raises(UsageError, match="gives train twice"):
        parse_repetitions(["train=keep", "train=average"])
