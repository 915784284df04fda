"""Results that must be equal to the bit do not depend on the number of BLAS threads."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from neuroimagen.data_shards.common.blas import single_blas_thread


def num_threads() -> set[int]:
    """Threads of every BLAS in this process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two_threads() -> object:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        yield


def test_the_limit_ends_with_the_last_that_holds_it() -> None:
    with single_blas_thread():
        with single_blas_thread():
            assert num_threads() == {1}
        assert num_threads() == {1}
    assert num_threads() == {2}


def test_a_thread_that_leaves_does_not_lift_the_limit_of_another() -> None:
    inside, leave = threading.Barrier(2), threading.Event()

    def hold() -> set[int]:
        with single_blas_thread():
            inside.wait()
            leave.wait()
            return num_threads()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hold)
        inside.wait()
        with single_blas_thread():
            pass
        leave.set()
        assert waiting.result() == {1}
    assert num_threads() == {2}


def test_an_error_inside_lifts_the_limit() -> None:
    with pytest.raises(ZeroDivisionError), single_blas_thread():
        raise ZeroDivisionError
    assert num_threads() == {2}


PROMISED = """
import hashlib
import numpy as np
from neuroimagen.data_shards.simulator.ceiling import measure_ceiling
from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing
from neuroimagen.data_shards.simulator.study import Study, StudyConfig
from neuroimagen.trainer.evaluation.drift_surrogate import Sessions, draw_drift_surrogate, fit_drift
from neuroimagen.trainer.evaluation.segment_features import remove_trend, slow_features

model = ForwardModelConfig(num_classes=3, num_subjects=2, drift=1.0)
study = Study(StudyConfig(model=model, images_per_class=7, design="block", image_size_px=32))
eeg = [study.segment(index) for index in range(study.num_segments)]
print("segment", hashlib.sha256(b"".join(part.tobytes() for part in eeg)).hexdigest())
print("segments", hashlib.sha256(b"".join(part.tobytes() for part in study.segments(workers=2))).hexdigest())
print("ceiling", measure_ceiling(study.model, num_draws=2000))
detrend = FittedPreprocessing.fit(Preprocessing(detrend=True), [])
print("detrended", hashlib.sha256(b"".join(detrend(part).tobytes() for part in eeg)).hexdigest())
slow = slow_features(*remove_trend(np.stack([part[:, :440] for part in eeg])))
blocks, orders = np.array([study.block_and_order(index) for index in range(study.num_segments)]).T
sessions = Sessions(subjects=np.arange(len(eeg)) % 2, blocks=blocks, orders=orders)
features, sources = draw_drift_surrogate(fit_drift(slow, sessions), sessions, np.random.default_rng(0))
print("drift surrogate", hashlib.sha256(features.tobytes() + sources.tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit_of_what_is_promised() -> None:
    said = []
    for threads in ("1", "2", "5"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", PROMISED], env=environment, capture_output=True, text=True, check=True
        )
        said.append(run.stdout.splitlines())
    assert len(said[0]) == 5
    assert said[0][0].split()[1] == said[0][1].split()[1]
    assert said[0] == said[1] == said[2]
