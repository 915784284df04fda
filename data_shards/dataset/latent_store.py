"""Opens a finished latent store and reads latents from it; finds the store that a model made for a data set."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_format import INDEX_SCHEMA, LatentMetadata
from neuroimagen.data_shards.dataset.latent_items import LatentItems, StimulusTable
from neuroimagen.data_shards.format.storage import CorruptSampleError, ShardFolder, Shards
from neuroimagen.data_shards.format.tables import check_locations, numpy_column, read_table
from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.remote.mirror import RemoteDataset


class LatentSource(Protocol):
    """What finding latents needs to know of a data set."""

    @property
    def folder(self) -> Path: ...
    @property
    def location(self) -> str: ...
    @property
    def remote(self) -> RemoteDataset | None: ...
    @property
    def stimuli(self) -> StimulusTable: ...


class LatentStore:
    """The latents of one kind, by the stimulus's row in the data set. See latent_format for the files."""

    def __init__(self, folder: Path, metadata: LatentMetadata, table: pa.Table, shards: Shards) -> None:
        self.folder = folder
        self.metadata = metadata
        self.stimulus_keys: list[str] = table.column("stimulus").to_pylist()
        self.texts: list[str | None] = table.column("text").to_pylist()
        """The caption of which each stimulus's latent was made; None for latents of images."""
        self._latent_keys: list[str] = table.column("latent").to_pylist()
        self._shard, self._offset, self._crc32 = (numpy_column(table, name) for name in ("shard", "offset", "crc32"))
        self.shards = shards
        self._header = metadata.npy_header

    @classmethod
    def open(cls, folder: Path, *, remote: RemoteDataset | None = None) -> "LatentStore":
        """Open a store; raises UserError when its table or metadata are damaged.

        `remote`: the data set that `folder` belongs to, if it is behind a URL; the store itself may be there or local.
        """
        metadata = LatentMetadata.read(folder)
        shards: Shards = ShardFolder(folder, metadata.shard_bytes)
        if remote is not None and remote.is_latent_mirror(folder):
            remote.fetch_latent_index(folder, metadata.index_sha256)
            shards = remote.shards(f"latents/{folder.name}", metadata.shard_bytes)
        table = read_table(
            folder / "index.parquet",
            INDEX_SCHEMA,
            num_rows=metadata.num_stimuli,
            sha256=metadata.index_sha256,
            columns=INDEX_SCHEMA.names,
        )
        check_locations(
            table, shard_bytes=metadata.shard_bytes, where=f"{folder}/index.parquet", expected_size=metadata.npy_bytes
        )
        return cls(folder, metadata, table, shards)

    @classmethod
    def find(
        cls, dataset: LatentSource, kind: str, *, model: str | Path, tower: TowerConfig | None = None
    ) -> "LatentStore":
        """The store of `kind` that was made from this data set by the model in folder `model` as it is now.

        For the latents of an image tower, `model` may be the tower's own folder. `tower`: the image tower's
        configuration, if it was given one. Raises UserError naming what is cached when none matches, or when several
        do.
        """
        towers = {} if tower is None else {kind: tower}
        declared = latent_kind(kind, towers)
        identity = declared.identity(ModelFolders(model=Path(model), towers=towers))
        inputs = LatentItems.of(dataset.stimuli, kind, declared).digest
        root = dataset.folder / "latents"
        folders = {path.parent.name: path.parent for path in root.glob(f"{kind}-*/latents.json")}
        if dataset.remote is not None:
            # A folder's name determines its content: a store that is also in the local folder need not be fetched.
            folders = {folder.name: folder for folder in dataset.remote.latent_folders(kind)} | folders
        cached = [(folder, LatentMetadata.read(folder)) for _, folder in sorted(folders.items())]
        cached = [(folder, metadata) for folder, metadata in cached if metadata.kind == kind]
        fits = [
            folder
            for folder, metadata in cached
            if (metadata.revision, metadata.inputs) == (identity.revision, inputs)
            and {**identity.preprocessing, "captioner": None} == {**metadata.preprocessing, "captioner": None}
        ]
        if len(fits) == 1:
            return cls.open(fits[0], remote=dataset.remote)
        if fits:
            raise UserError(
                f"{len(fits)} stores of {kind} in {root} fit {model}: {', '.join(folder.name for folder in fits)}. "
                "Remove all but the one to use."
            )
        there = ", ".join(folder.name for folder, _ in cached) or "none of that kind"
        # An image tower's own folder is not a model folder.
        has_index = (Path(model) / "model_index.json").is_file()
        if tower is not None:
            given = f"--towers {tower.words(kind)}" if tower.path else f"--model {model} --towers {tower.words(kind)}"
        else:
            given = f"--model {model}" if has_index else f"--towers {kind}={model}"
        of = tower.path if tower is not None and tower.path else model
        raise UserError(
            f"no {kind} latents of {of} for this data set in {root} (there: {there}; another model, revision or "
            "preprocessing does not count). "
            f"Run: neuroimagen cache --data {dataset.location} {given} --kinds {kind}"
        )

    def __len__(self) -> int:
        """Number of stimuli."""
        return len(self.stimulus_keys)

    def get(self, stimuli: npt.ArrayLike) -> torch.Tensor:
        """Latents of the stimuli with these rows, float32 [n, *shape]. Shared captions are read once.

        Raises CorruptSampleError when the stored bytes are not what was written.
        """
        distinct, which = self.distinct(stimuli)
        return self.stored(distinct).float()[torch.from_numpy(which)]

    def distinct(self, stimuli: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Group stimuli by their latent, because stimuli with the same caption share one.

        Returns rows of stimuli among which every latent occurs once, and for each of `stimuli` its place among them.
        """
        rows = np.asarray(stimuli, dtype=np.int64)
        places = np.stack([self._shard[rows].astype(np.int64), self._offset[rows]], axis=1)
        _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
        return rows[first], inverse.reshape(-1)

    def stored(self, stimuli: npt.NDArray[np.int64]) -> torch.Tensor:
        """Latents of the stimuli with these rows in the store's own dtype, [n, *shape], each read and checked."""
        stored = np.empty((len(stimuli), *self.metadata.shape), dtype=self.metadata.storage_dtype)
        for position, row in enumerate(stimuli):
            stored[position] = self._read(int(row))
        latents = torch.from_numpy(stored)
        return latents.view(torch.bfloat16) if self.metadata.dtype == "bfloat16" else latents

    def _read(self, row: int) -> np.ndarray:
        shard, offset = int(self._shard[row]), int(self._offset[row])
        content = self.shards.read_checked(shard, offset, self.metadata.npy_bytes, int(self._crc32[row]))
        if content is None or content[: len(self._header)] != self._header:
            raise CorruptSampleError(
                f"{self.shards.where(shard)}: latent {self._latent_keys[row]} at offset {offset} is damaged. "
                f"Remove {self.folder} and run `neuroimagen cache` again."
            )
        numbers = np.frombuffer(content, dtype=self.metadata.storage_dtype, offset=len(self._header))
        return numbers.reshape(self.metadata.shape)
