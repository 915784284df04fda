"""What a computation sends between CPU and GPU, and where it would wait, seen without a GPU.

The meta device plays the GPU: its tensors have shapes and no numbers. What only numbers could tell is answered with
ones, and noted, since on a GPU it is a wait for all that was queued.
"""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
_ROOT = Path(__file__).resolve().parents[2]
_ATEN = torch.ops.aten
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN._index_put_impl_.default)


@dataclass(frozen=True)
class Crossing:
    """One copy or wait, with the line of ours that asked for it."""

    what: str
    """copy in, copy in (blocking), copy out, copy out (blocking), number out, size out, mixed devices."""
    where: str


class DeviceTraffic(TorchDispatchMode):
    """Context that notes every crossing between CPU and DEVICE in `crossings`."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[Crossing] = []

    def of(self, *kinds: str) -> list[Crossing]:
        """The crossings of these kinds."""
        return [crossing for crossing in self.crossings if crossing.what in kinds]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # under inference_mode these arrive whole
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is _ATEN._local_scalar_dense.default and tensors[0].device == DEVICE:
            self._note("number out")
            return torch.ones((), dtype=tensors[0].dtype).item()
        if func is _ATEN.nonzero.default and tensors[0].device == DEVICE:
            self._note("size out")
            return tensors[0].new_empty((1, tensors[0].dim()), dtype=torch.int64)
        if func in _COPIES:
            return self._copy(func, args, kwargs)
        if func in _INDEXING:
            if any(i is not None and i.device != args[0].device for i in args[1]):
                self._note("mixed devices")  # allowed, but the index is copied, and waited for
            args = (args[0], [index for i in args[1] for index in self._places(i)], *args[2:])
        elif len({tensor.device for tensor in tensors if tensor.dim() > 0}) > 1:
            self._note("mixed devices")
        return func(*args, **kwargs)

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        into = func is _ATEN.copy_.default
        source = args[1] if into else args[0]
        target = args[0].device if into else torch.device(kwargs.get("device") or source.device)
        if source.device == target:
            return func(*args, **kwargs)
        non_blocking = (args[2] if len(args) > 2 else False) if into else kwargs.get("non_blocking", False)
        self._note(f"copy {'in' if target == DEVICE else 'out'}{'' if non_blocking else ' (blocking)'}")
        if target == DEVICE:
            return func(*args, **kwargs)
        if into:
            return args[0].fill_(1)
        return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)

    def _places(self, index: Tensor | None) -> list[Tensor | None]:
        """The index; where it is a mask, whose number of places must be waited for, one place."""
        if index is None or index.dtype != torch.bool or index.device != DEVICE:
            return [index]
        self._note("size out")
        return [torch.zeros(1, dtype=torch.int64, device=DEVICE)] * index.dim()

    def _note(self, what: str) -> None:
        places = ((Path(frame.filename).resolve(), frame.lineno) for frame in traceback.extract_stack())
        inside = ((path.relative_to(_ROOT), line) for path, line in places if path.is_relative_to(_ROOT))
        ours = [f"{path}:{line}" for path, line in inside if path.parts[0] in ("data_shards", "kernels", "trainer")]
        self.crossings.append(Crossing(what, ours[-1] if ours else "a library"))
