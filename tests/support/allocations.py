"""The bytes of tensors that a call has allocated at one time, counted rather than read from the process's size."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch


def peak_tensor_bytes(call: Callable[[], object]) -> int:
    """The largest sum of tensors that existed at one time during the call, beyond those from before it, on the CPU.

    PyTorch's allocator reports every allocation and release to its profiler. The sum is the same in every run; the
    resident size is not, because the C library keeps and reuses freed pages.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    del result
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        held += change
        peak = max(peak, held)
    return peak
