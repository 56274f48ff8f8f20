"""ONNX Runtime: a model is run as the file that ``export --format onnx`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from axsearch.errors import cause
from axsearch.graphs import dynamic
from axsearch.graphs.conversion import MODEL, converted, onnx_file, versions
from axsearch.graphs.onnx import PACKAGES, ConversionError, missing, taken
from axsearch.runtimes.base import Inputs, Runtime, Session, of_export


class OnnxRuntimeSession(Session):
    """A file that ONNX Runtime has opened, with threads of its own.

    They stop when a pass ends: otherwise they would wait for the next one for a while and disturb
    whatever is timed after it.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's have no common kind
            raise ConversionError(f"{path} cannot be opened: {cause(error)}.") from None
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]
        self.size_bytes = path.stat().st_size

    def prepare(self, batch: Inputs) -> Inputs:
        """The inputs that the graph takes, with zeros where a batch has none."""
        return taken(batch, self._inputs)

    def run(self, batch: Inputs) -> Mapping[str, Any]:
        """The graph's outputs."""
        given = {name: tensor.numpy() for name, tensor in batch.items()}
        found = self._session.run(self._outputs, given)
        return ModelOutput(
            {n: torch.from_numpy(o) for n, o in zip(self._outputs, found, strict=True)}
        )

    def close(self) -> None:
        """Free the graph and its threads."""
        del self._session


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, in float32 or with weights and activations in int8."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    precisions = ("float32", "int8")
    export_format = "onnx"
    devices = ("cpu",)
    converts = True
    kernels = False

    def missing(self, precision: str) -> str | None:
        """Those of the extra ``export``."""
        return missing(PACKAGES)

    def open(
        self,
        model: PreTrainedModel | Path,
        *,
        precision: str,
        threads: int | None,
        device: str,
        examples: Sequence[Inputs] = (),
        lasting: bool = True,
        **more: Any,
    ) -> OnnxRuntimeSession:
        """A model is traced, and quantized where that is asked for; no examples are needed.

        A file of an export is opened as it is, in the precision in which it was written.
        """
        with _file(model, precision, lasting) as path, of_export(model, path):
            return OnnxRuntimeSession(path, threads)


@contextmanager
def _file(model: PreTrainedModel | Path, precision: str, lasting: bool) -> Iterator[Path]:
    if isinstance(model, Path):
        yield model / MODEL
    elif precision == "float32":
        with onnx_file(model, lasting=lasting) as path:
            yield path
    else:
        key = [dynamic.KEY, *versions(["onnxruntime"])]
        with converted(model, key, dynamic.quantize, lasting=lasting) as folder:
            yield folder / MODEL
