"""Training speed and memory, for the log."""

import resource
import time

import torch

from neuroimagen.trainer.batches.device_feed import Feed


class SpeedMeter:
    """Training speed since the last reading; validation and checkpoints are left out by `restart`."""

    def __init__(self, feed: Feed, global_batch_size: int, step: int) -> None:
        self._feed = feed
        self._batch = global_batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measure from here, after `step` steps."""
        self._step = step
        self._time = time.perf_counter()
        self._waited = self._feed.wait_seconds

    def read(self, step: int) -> dict[str, float]:
        """Segments per second over all ranks, the share of this rank's time spent waiting for data, its peak memory in
        GiB; nothing if no step was taken.
        """
        steps, seconds = step - self._step, time.perf_counter() - self._time
        waited = self._feed.wait_seconds - self._waited
        self.restart(step)
        if steps == 0:
            return {}
        return {
            "segments_per_second": steps * self._batch / seconds,
            "data_wait_share": waited / seconds,
            "memory_gib": peak_memory_gib(),
        }


def peak_memory_gib() -> float:
    """The largest memory that this rank has used so far: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / (1 << 30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # Linux counts in KiB
