"""The mirror of a remote data set: small files fetched once, checked, and named by their content."""

import shutil
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.remote.mirror import RemoteDataset


def test_small_files_are_fetched_once_and_shared_by_digest(served: Any) -> None:
    first = RemoteDataset(served.url, served.options)
    for name in ("dataset.json", "index.parquet", "stimuli.parquet"):
        assert (first.mirror / name).read_bytes() == (served.local.folder / name).read_bytes()
    shutil.copytree(served.local.folder, served.server.folder / "moved")
    second = RemoteDataset(f"{served.server.url}/moved", served.options)
    assert second.mirror == first.mirror
    assert served.server.count("parquet") == 2
    assert served.server.count("dataset.json") == 2


def test_a_damaged_mirror_is_fetched_again(served: Any) -> None:
    mirror = RemoteDataset(served.url, served.options).mirror
    (mirror / "index.parquet").write_bytes(b"damaged")
    RemoteDataset(served.url, served.options)
    assert (mirror / "index.parquet").read_bytes() == (served.local.folder / "index.parquet").read_bytes()


def test_a_damaged_table_is_named(served: Any) -> None:
    served.server.fault = lambda path, number: "corrupt" if path.endswith("index.parquet") else None
    with pytest.raises(UserError, match=r"http://.*index\.parquet is damaged"):
        RemoteDataset(served.url, served.options)


def test_latents_on_the_server_are_found(served: Any) -> None:
    remote = served.open()
    assert remote.remote is not None
    assert remote.remote.latent_folders("vae") == []
    store = served.server.folder / "data" / "latents" / "vae-x-0123456789ab"
    store.mkdir(parents=True)
    (store / "latents.json").write_text("{}")
    (served.server.folder / "data" / "latents" / "image-y-0123456789ab").mkdir()
    (folder,) = remote.remote.latent_folders("vae")
    assert folder.name == store.name
    assert (folder / "latents.json").read_text() == "{}"
