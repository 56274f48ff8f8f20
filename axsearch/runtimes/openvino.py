"""OpenVINO: a model is run as the file that ``export --format openvino`` writes.

OpenVINO is imported without its telemetry package, which reports every import to Google Analytics
without asking. There is one core in a process: a second one leaves the main thread with a freed
stack for signals, and the next Ctrl-C ends it without a word.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from axsearch.graphs import nncf
from axsearch.graphs.conversion import converted, onnx_file, versions
from axsearch.graphs.onnx import PACKAGES, ConversionError, example, missing, taken
from axsearch.graphs.structures import structure_key
from axsearch.runtimes.base import Inputs, Runtime, Session, of_export

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""The precision of what is not quantized. Some processors would compute in bfloat16 by default."""

RANDOM = 64
"""Random inputs that take the place of examples where there are none."""

TELEMETRY = "openvino_telemetry"


class OpenVinoSession(Session):
    """A compiled model, for one request at a time."""

    def __init__(self, path: Path, precision: str, threads: int | None) -> None:
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = core().compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConversionError(f"{path} cannot be opened: {reason}.") from None
        self._request = compiled.create_infer_request()
        self._inputs = [one.any_name for one in compiled.inputs]
        self._outputs = [one.any_name for one in compiled.outputs]
        weights = path.with_suffix(".bin")
        self.size_bytes = sum(file.stat().st_size for file in (path, weights) if file.is_file())

    def prepare(self, batch: Inputs) -> Inputs:
        """The inputs that the graph takes, with zeros where a batch has none."""
        return taken(batch, self._inputs)

    def run(self, batch: Inputs) -> Mapping[str, Any]:
        """The graph's outputs, copied: the request uses its memory again."""
        given = {name: tensor.numpy() for name, tensor in batch.items()}
        found = self._request.infer(given, share_inputs=True, share_outputs=True)
        return ModelOutput({name: torch.from_numpy(found[name].copy()) for name in self._outputs})

    def close(self) -> None:
        """Free the compiled model."""
        del self._request


class OpenVino(Runtime):
    """OpenVINO on the CPU, in float32, bfloat16, or int8 as NNCF quantizes."""

    name = "openvino"
    title = "OpenVINO"
    precisions = ("float32", "bfloat16", "int8")
    export_format = "openvino"
    devices = ("cpu",)
    converts = True
    kernels = False
    quantizes_apart = True

    def missing(self, precision: str) -> str | None:
        """Those of the extra ``export``."""
        return missing((*PACKAGES, "openvino", *(("nncf",) if precision == "int8" else ())))

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
    ) -> OpenVinoSession:
        """A model is traced, and quantized with the examples where that is asked for.

        One that is not to last is quantized roughly. The files of an export are opened as they are,
        in the precision in which they were written, but for what they compute in.
        """
        with _file(model, precision, examples, lasting) as path, of_export(model, path):
            return OpenVinoSession(path, precision, threads)


@functools.cache
def core() -> Any:
    """The one core of this process."""
    there = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino  # type: ignore[import-untyped]
    finally:
        if there is None:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = there
    return openvino.Core()


@contextmanager
def _file(
    model: PreTrainedModel | Path, precision: str, examples: Sequence[Inputs], lasting: bool
) -> Iterator[Path]:
    if isinstance(model, Path):
        yield model / nncf.MODEL
    elif precision != "int8":
        with onnx_file(model, lasting=lasting) as path:
            yield path
    else:
        rows = examples or [*_rows(example(model, rows=RANDOM))]
        key = [
            nncf.KEY,
            str(nncf.saturates()),
            nncf.fingerprint(rows),
            *versions(["nncf", "openvino"]),
        ]

        def quantize(source: Path, folder: Path) -> None:
            structure = None if lasting else f"{structure_key(model)} {nncf.fingerprint(rows)}"
            nncf.quantize(source, folder, rows, structure=structure)

        with converted(model, key, quantize, lasting=lasting) as folder:
            yield folder / nncf.MODEL


def _rows(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for row in range(len(next(iter(inputs.values())))):
        yield {name: tensor[row : row + 1] for name, tensor in inputs.items()}
