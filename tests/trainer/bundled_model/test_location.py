"""Where a recipe's model is: the bundled one by its name, any other by its folder."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.bundled_model import location


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index\.json"):
        location.resolve_model_path(str(tmp_path))


def test_the_bundled_model_is_found_by_its_name_and_its_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = location.bundled_model_path()
    assert (folder / "model_index.json").is_file()
    assert location.resolve_model_path("bundled") == location.resolve_model_path("embedded") == folder
    assert location.resolve_model_path(str(folder)) == folder
    monkeypatch.setattr(location, "__file__", "/nowhere/location.py")
    with pytest.raises(UserError, match=r"the bundled model is missing from /nowhere/bundled_64px\. `make bundled"):
        location.bundled_model_path()
