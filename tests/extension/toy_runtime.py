"""The file of a runtime that axsearch lacks: it wraps PyTorch's, and counts."""

from __future__ import annotations

RUNTIME = {
    "counted.py": '''"""PyTorch again, which counts what it is asked for."""

from axsearch.runtimes.base import Runtime, Session
from axsearch.runtimes.torch import Torch

COUNTS = {"opened": 0, "closed": 0, "run": 0, "layer_times": 0}


class CountedSession(Session):
    def __init__(self, inner):
        COUNTS["opened"] += 1
        self.inner = inner

    def prepare(self, batch):
        return self.inner.prepare(batch)

    def run(self, batch):
        COUNTS["run"] += 1
        return self.inner.run(batch)

    def layer_times(self, batches):
        COUNTS["layer_times"] += 1
        return self.inner.layer_times(batches)

    def quiet(self):
        return self.inner.quiet()

    def close(self):
        COUNTS["closed"] += 1
        self.inner.close()


class Counted(Runtime):
    """Counts."""

    name = "counted"
    precisions = ("int8", "int4")
    export_format = "hf"

    def open(self, model, *, precision, threads, device):
        inner = Torch().open(model, precision="float32", threads=threads, device=device)
        return CountedSession(inner)
''',
}
