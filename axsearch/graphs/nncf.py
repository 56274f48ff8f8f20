"""int8 for OpenVINO: NNCF's quantization after training, with calibration examples.

NNCF runs in a process of its own, which blocks the telemetry package that reports every call to
Google Analytics without asking, and which keeps a second OpenVINO core out of this process: two of
them leave its main thread with a freed stack for signals. The process stays for the next model,
since it takes seconds to start, and ends with this one.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from axsearch.graphs.onnx import ConversionError

MODEL, WEIGHTS = "model.xml", "model.bin"

KEY = "nncf 2"
"""Which way of quantizing this is, for the keys of what depends on it."""

EXAMPLES = "examples.npz"

ROUGHLY = 2
"""Examples for a model that is timed only, whose ranges need not be right."""

SCRIPT = Path(__file__).with_name("nncf_process.py")


class _Quantizer:
    """The process that quantizes; it is started with the first model."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def quantize(self, source: Path, folder: Path, *, structure: str | None) -> None:
        with self._lock:
            self._quantize(source, folder, structure)

    def _quantize(self, source: Path, folder: Path, structure: str | None) -> None:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = [str(source), str(folder), saturates(), structure]
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        except BaseException:  # Ctrl-C: what it is doing is of no use, and would be the next answer
            self.end()
            raise
        if not answer:
            self.end()
            raise ConversionError("NNCF's process ended while it quantized a model.")
        if (problem := json.loads(answer)) is not None:
            raise ConversionError(f"NNCF cannot quantize this model: {problem}")

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "NNCF_CI": "1"},
            )
        return self._process


_quantizer = _Quantizer()
atexit.register(_quantizer.end)


def quantize(
    source: Path,
    folder: Path,
    examples: Sequence[Mapping[str, Tensor]],
    *,
    structure: str | None = None,
) -> None:
    """Quantize an ONNX file to ``model.xml`` and ``model.bin`` in a folder.

    Weights are int8 with a scale for each output, and activations int8 with the ranges that the
    examples show, as NNCF does it for transformers: with SmoothQuant and a correction of biases.
    On processors whose sums of int8 products saturate, weights take half of the range.

    Args:
        source: the ONNX file.
        folder: where to write.
        examples: inputs by name, each of one row; zeros stand for inputs that they lack.
        structure: the key of the structure of a model that is only timed, see
            :func:`axsearch.graphs.structures.structure_key`. Such a model is quantized in less
            time: with few examples, without a correction of biases, and with the weights of the
            first model of its structure. It is as fast as one that is quantized well, but its
            answers are wrong.

    Raises:
        ConversionError: NNCF cannot do it.
    """
    every = 1 if structure is None else max(1, len(examples) // ROUGHLY)
    np.savez(folder / EXAMPLES, **_arrays(examples[::every]))
    try:
        _quantizer.quantize(source.resolve(), folder.resolve(), structure=structure)
    finally:
        (folder / EXAMPLES).unlink(missing_ok=True)


def saturates() -> bool:
    """Whether this processor adds int8 products in 16 bits, as x86 does without VNNI."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not getattr(torch.cpu, "_is_vnni_supported", bool)()


def fingerprint(examples: Sequence[Mapping[str, Tensor]]) -> str:
    """SHA-256 of the examples of a quantization."""
    digest = hashlib.sha256()
    for name, array in _arrays(examples).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _arrays(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    return {
        f"{number} {name}": tensor.cpu().numpy()
        for number, inputs in enumerate(examples)
        for name, tensor in inputs.items()
    }
