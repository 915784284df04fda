"""Ray for the length of a search: a cluster of this machine's own, or one that runs already. No telemetry."""

import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

_MAX_TEMP_PATH = 40
"""Ray's sockets lie some 60 characters below its folder, and a socket's path may have 107."""

_PREFIX = "ni-ray-"
"""Of the folders of our clusters; the number of the search's process follows."""

START_ATTEMPTS = 3
"""Ray gives its own processes 30 s to start, which a busy machine can miss."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_RESULT_BUFFER_LENGTH": "0",  # every validation reaches the scheduler by itself
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # the trials are the work, not something beside it
    # A laptop that is busy with something else is slow, not dead.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_failure_threshold": "30",
}
"""Set before Ray is imported, for this process and the workers of its own cluster."""


@contextlib.contextmanager
def ray_session(*, num_cpus: int, address: str | None) -> Iterator[None]:
    """Ray is initialised inside: a cluster of `num_cpus` on this machine, or the one at `address` (auto: this node's).

    Raises UserError when there is no cluster at the address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(f"there is no Ray cluster at {address} ({error}). Start one: `ray start --head`.") from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Another search, or anything else of the user's, may have a cluster here: this one is ours alone.
    os.environ.pop("RAY_ADDRESS", None)
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _MAX_TEMP_PATH else "/tmp"
    _remove_leavings(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    try:
        _start_own_cluster(folder, num_cpus)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leavings(parent: Path) -> None:
    """Remove the folders of clusters whose search was killed; Ray's own processes end by themselves in a minute."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _runtime_env(python: str) -> dict[str, str] | None:
    """What Ray is to start workers with: it writes Python's path into a shell command without quoting it."""
    quoted = shlex.quote(python)
    return None if quoted == python else {"py_executable": quoted}


def _start_own_cluster(folder: Path, num_cpus: int) -> None:
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=100 << 20,
                _temp_dir=str(folder / str(attempt)),
                _node_ip_address="127.0.0.1",
                runtime_env=_runtime_env(sys.executable),
            )
            return
        except Exception as error:  # Ray raises Exception itself when its processes take more than 30 s to start
            ray.shutdown()
            if "timed out" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise UserError(f"Ray does not start on this machine: {error}") from error
