"""PyTorch: a model is run as transformers runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from axsearch.models.architectures import architecture_of
from axsearch.models.exported import open_export
from axsearch.models.placing import placed
from axsearch.runtimes.base import Inputs, Runtime, Session
from axsearch.system.allocator import keep_freed_memory


class TorchSession(Session):
    """A model on its device; its threads are those of the process, set while it is timed."""

    def __init__(
        self,
        model: PreTrainedModel,
        threads: int | None,
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        keep_freed_memory()
        self.model = placed(model, device, dtype)
        self.threads = threads
        self.device = device

    def prepare(self, batch: Inputs) -> Inputs:
        """The same tensors on the device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def run(self, batch: Inputs) -> Mapping[str, Any]:
        """The model's own output."""
        with torch.inference_mode():
            return self.model(**batch)  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Wait for a GPU."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        elif self.device.startswith("mps"):
            torch.mps.synchronize()

    def layer_times(self, batches: Sequence[Inputs]) -> NDArray[np.float64]:
        """Taken by hooks before and after each layer, which wait for the device."""
        layers = architecture_of(self.model.config.model_type).layers(self.model)
        times = np.zeros(len(layers) + 1)
        started = 0.0

        def start(*_: Any) -> None:
            nonlocal started
            self.settle()
            started = time.perf_counter()

        def stop(layer: int, *_: Any) -> None:
            self.settle()
            times[layer] += time.perf_counter() - started

        ready = [self.prepare(batch) for batch in batches]
        hooks: list[Any] = []
        for number, layer in enumerate(layers):
            hooks.append(layer.register_forward_pre_hook(start))
            hooks.append(layer.register_forward_hook(partial(stop, number)))
        try:
            self.settle()
            began = time.perf_counter()
            for batch in ready:
                self.run(batch)
            self.settle()
            times[-1] = time.perf_counter() - began
        finally:
            for hook in hooks:
                hook.remove()
        return times

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """The session's threads, and no garbage collection."""
        before = torch.get_num_threads()
        with super().quiet():
            torch.set_num_threads(self.threads or before)
            try:
                yield
            finally:
                torch.set_num_threads(before)

    def close(self) -> None:
        """Let go of the model, and of its copy if it was made."""
        del self.model


class Torch(Runtime):
    """PyTorch with the kernels of transformers, and axsearch's for top-k."""

    name = "torch"
    title = "PyTorch"
    precisions = ("float32", "bfloat16")
    export_format = "hf"

    def open(
        self,
        model: PreTrainedModel | Path,
        *,
        precision: str,
        threads: int | None,
        device: str,
        **more: Any,
    ) -> TorchSession:
        """A model on another device is copied to this one; one from a folder is loaded first.

        In bfloat16 its parameters are. Buffers, such as angles of positions, stay as they are.
        """
        opened = open_export(model) if isinstance(model, Path) else model
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        return TorchSession(opened, threads, device, dtype)
