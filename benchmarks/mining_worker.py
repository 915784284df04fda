"""Time and memory of each method, measured in a process that may run out of memory, hang or crash.

On a CPU each method's memory is measured in a new process with a limit of its address space. On a GPU one process
measures all methods, because PyTorch counts GPU allocations exactly and continues after running out of memory; it is
restarted after an error, a crash or a time limit.
"""

import ctypes
import gc
import multiprocessing
import resource
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from neuroimagen.benchmarks.mining_methods import LossFunction, methods

Figures = dict[str, Any]
STARTING_SECONDS = 300.0
"""Time allowed for starting a process and compiling kernels, beside the passes themselves."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """N unit-norm rows of D features in `classes` equal classes, spread around class centres."""

    size: int
    features: int
    classes: int
    positives: str | int
    device: str
    threads: int
    seed: int = 0

    def inputs(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.arange(self.size) % self.classes
        centres = torch.randn(self.classes, self.features, generator=generator)
        rows = centres[labels] + 2 * torch.randn(self.size, self.features, generator=generator)
        return torch.nn.functional.normalize(rows, dim=1).to(self.device), labels.to(self.device)


class Worker:
    """A process that answers questions one after the other; started when it is needed."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def ask(self, question: Figures, *, time_limit: float) -> Figures:
        """The answer; {"failed": why} if there was none within `time_limit` seconds, or the process ended."""
        if self._connection is None or self._process is None:
            # Spawned, not forked: CUDA does not work in a forked process.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._connection.send(question)
            if not self._connection.poll(time_limit):
                self.close()
                return {"failed": f"no answer within {time_limit:.0f} s"}
            found: Figures = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            return {"failed": f"ended with code {code}"}
        if "error" in found:
            self.close()
            return {"failed": found["error"]}
        return found

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def serve(connection: Connection) -> None:
    """Answer until the other side ends the process. After an error it returns, so that a new process is started."""
    while True:
        question = connection.recv()
        try:
            found = answer(question)
        except Exception as error:
            traceback.print_exc()
            reason = next(iter(str(error).splitlines()), "")
            connection.send({"error": f"{type(error).__name__}: {reason}"[:200]})
            return
        connection.send(found)


def answer(question: Figures) -> Figures:
    """{"case", "probe": method, "memory_gb"} → {"peak_mb", "seconds"} of one pass, or {"failed"} out of memory;
    {"case", "methods", "repeats"} → method → its times and loss, the methods taking turns.
    """
    case = Case(**question["case"])
    torch.set_num_threads(case.threads)
    torch.compiler.reset()  # beyond its limit of shapes a function would silently run uncompiled
    known = {method.name: method for method in methods(case.device)}
    if "probe" in question:
        return _probe(known[question["probe"]].build(case.positives), case, memory_gb=question["memory_gb"])
    return take_turns({name: known[name].build(case.positives) for name in question["methods"]}, case, question)


def take_turns(running: dict[str, LossFunction], case: Case, question: Figures) -> Figures:
    rows, labels = case.inputs()
    rows.requires_grad_()
    figures: Figures = {name: {} for name in running}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(question["repeats"] + 1):
        for name, function in running.items():
            forward, backward, value = timed_pass(function, rows, labels)
            if turn:  # the first warms up
                times[name].append((forward, backward))
                figures[name]["loss"] = value
    for name, values in times.items():
        for key, seconds in zip(("forward", "backward"), zip(*values, strict=True), strict=True):
            figures[name][f"{key}_ms"] = _summary(seconds)
        figures[name]["total_ms"] = _summary([sum(value) for value in values])
    return figures


def timed_pass(function: LossFunction, rows: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Seconds of the forward pass, of the backward pass, and the loss."""
    rows.grad = None
    started = now(rows)
    loss = function(rows, labels)
    middle = now(rows)
    loss.backward()
    return middle - started, now(rows) - middle, float(loss.detach())


def now(rows: Tensor) -> float:
    """Time in seconds, after all work that is queued on the device of `rows` is done."""
    if rows.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _summary(seconds: list[float] | tuple[float, ...]) -> dict[str, float]:
    return {
        "median": round(1e3 * statistics.median(seconds), 3),
        "min": round(1e3 * min(seconds), 3),
        "max": round(1e3 * max(seconds), 3),
    }


def _probe(function: LossFunction, case: Case, *, memory_gb: float) -> Figures:
    # A small pass first, so that what libraries allocate once is not counted.
    small = Case(**{**asdict(case), "size": min(256, case.size), "classes": min(40, case.classes)})
    rows, labels = small.inputs()
    timed_pass(function, rows.requires_grad_(), labels)
    rows, labels = case.inputs()
    rows.requires_grad_()
    measured = _probe_gpu if case.device == "cuda" else _probe_cpu
    return measured(function, rows, labels, memory_gb)


def _probe_cpu(function: LossFunction, rows: Tensor, labels: Tensor, memory_gb: float) -> Figures:
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (status_bytes("VmSize") + limit, resource.RLIM_INFINITY))
    # Pages that the small pass has freed and the C library keeps would be used again, and not be counted.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = status_bytes("VmRSS")
    try:
        forward, backward, _ = timed_pass(function, rows, labels)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        return {"failed": f"out of memory ({memory_gb:g} GB)"}
    peak = status_bytes("VmHWM") - before
    return {"peak_mb": round(peak / 1e6, 1), "seconds": round(forward + backward, 4)}


def _probe_gpu(function: LossFunction, rows: Tensor, labels: Tensor, _: float) -> Figures:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    try:
        timed_pass(function, rows, labels)  # compiles for this size
        torch.cuda.reset_peak_memory_stats()
        forward, backward, _ = timed_pass(function, rows, labels)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    peak = torch.cuda.max_memory_allocated() - before
    return {"peak_mb": round(peak / 1e6, 1), "seconds": round(forward + backward, 4)}


def status_bytes(field: str) -> int:
    """A size from /proc/self/status (VmSize, VmRSS, VmHWM) in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def best_of(function: Callable[[], Tensor], where: Tensor, repeats: int = 7) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        started = now(where)
        function()
        times.append(now(where) - started)
    return min(times)
