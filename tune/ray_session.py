"""Starts Ray for the time of a search: a cluster on this machine, or one that runs already. Telemetry is off."""

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
"""The paths of Ray's sockets are some 60 characters longer than its folder's, and may have 107 characters."""

_PREFIX = "ni-ray-"
"""Start of the names of the folders of our clusters; the id of the search's process follows."""

START_ATTEMPTS = 3
"""Ray gives its own processes 30 s to start, which can be too short on a busy machine."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_RESULT_BUFFER_LENGTH": "0",  # every validation is reported to the scheduler by itself
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # trials get the priority of the search
    # A machine that is busy with something else answers late; it is not lost.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_failure_threshold": "30",
}
"""Variables that are set before Ray is imported, for this process and for the workers of its own cluster."""


@contextlib.contextmanager
def ray_session(*, num_cpus: int, address: str | None) -> Iterator[None]:
    """Initialise Ray inside the context: a cluster with `num_cpus` on this machine, or the one at `address`.

    address: "auto" is the cluster that this node belongs to.

    Raises UserError if there is no cluster at the address, or if Ray does not start.
    """
    for name, value in ENVIRONMENT.items():
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
    # Another search, or another program, may have a cluster on this machine: this search starts its own.
    os.environ.pop("RAY_ADDRESS", None)
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _MAX_TEMP_PATH else "/tmp"
    _remove_abandoned_folders(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    try:
        _start_own_cluster(folder, num_cpus)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned_folders(parent: Path) -> None:
    """Remove the folders of clusters whose search was killed; Ray's own processes end within a minute."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _runtime_env(python: str) -> dict[str, str] | None:
    """How Ray starts workers. It writes the path of Python into a shell command as it is, so quote it if needed."""
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
