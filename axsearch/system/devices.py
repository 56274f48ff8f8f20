"""The devices of this machine."""

from __future__ import annotations

from typing import Annotated, Any

from axsearch.errors import UsageError
from axsearch.options import Option

Device = Annotated[str, Option("Device: cpu, cuda or mps")]


def check_device(device: str) -> None:
    """Raises UsageError for a device that this machine does not have."""
    if device == "cpu":
        return
    import torch  # only where it matters: it takes a second

    backend: Any = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(device.split(":")[0])
    if backend is None or not backend.is_available():
        raise UsageError(f"The device {device!r} is not available on this machine; use cpu.")
