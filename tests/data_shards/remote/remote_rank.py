"""remote_rank.py URL CACHE RANK: one of four ranks that read a data set behind a URL; prints what it read."""

import json
import sys
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import BlockShufflePlan
from neuroimagen.data_shards.loading.reader import Reader
from neuroimagen.data_shards.remote.files import RemoteOptions

url, cache, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
options = RemoteOptions(cache_folder=cache, cache_bytes=1 << 20, block_bytes=10_000, backoff_s=0.01, timeout_s=60.0)
dataset = Dataset.open(url, remote_options=options)
plan = BlockShufflePlan(np.arange(len(dataset)), dataset.index.shard, 3, 16, window_shards=1)
batches = list(Reader(dataset, plan, rank=rank, world_size=4).epoch(0))
rows = [batch.rows.tolist() for batch in batches]
json.dump({"rows": rows, "sums": [float(batch.eeg.sum()) for batch in batches]}, sys.stdout)
