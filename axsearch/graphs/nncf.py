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

ROUGHLY = 8
"""Examples for a model that is timed only, whose ranges need not be right."""

SCRIPT = """
import json, os, sys
for package in ("axsearch", "openvino_telemetry"):
    sys.modules[package] = None
said = os.fdopen(os.dup(1), "w")
silent = os.open(os.devnull, os.O_WRONLY)
os.dup2(silent, 1)  # progress bars
os.dup2(silent, 2)
import logging
import numpy
try:
    import nncf, openvino, openvino.opset13
    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    error = None
except Exception as caught:
    error = f"{type(caught).__name__}: {caught}"
for line in sys.stdin:
    source, folder, rough, saturates = json.loads(line)
    try:
        if error is not None:
            raise RuntimeError(error)
        rows = {}
        with numpy.load(folder + "/examples.npz") as arrays:
            for name in arrays.files:
                number, _, own = name.partition(" ")
                rows.setdefault(int(number), {})[own] = arrays[name]
        more = {}
        if saturates:
            more["overflow_fix"] = nncf.OverflowFix.ENABLE
        if rough:
            more["disable_bias_correction"] = True
            more["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=-1)
        read = core.read_model(source)
        names = [one.any_name for one in read.inputs]
        examples = []
        for number in sorted(rows):
            none = numpy.zeros_like(next(iter(rows[number].values())))  # as for a single text
            examples.append({name: rows[number].get(name, none) for name in names})
        # A table of one row, as for the one kind of text, cannot be opened once it is quantized.
        single = [
            one.get_friendly_name()
            for one in read.get_ordered_ops()
            if one.get_type_name() == "Gather"
            and one.input_value(0).get_node().get_type_name() == "Constant"
            and list(one.input_value(0).get_shape())[:1] == [1]
        ]
        # SmoothQuant fails where one product is of several matrices, as in a narrowed last layer:
        # these are small, stay in float32, and are no weights while it looks.
        held, products = {}, []
        for one in list(read.get_ordered_ops()):
            for port in one.input_values() if one.get_type_name() == "MatMul" else ():
                node = port.get_node()
                while node.get_type_name() in ("Reshape", "Transpose", "Unsqueeze"):
                    node = node.input_value(0).get_node()
                if port.get_partial_shape().rank.get_length() < 3:
                    continue
                if node.get_friendly_name() in held:  # by another product of the same
                    products.append(one.get_friendly_name())
                if node.get_type_name() != "Constant":
                    continue
                name = f"held {len(held)}"
                held[name] = numpy.array(node.data)
                given = openvino.opset13.parameter(held[name].shape, held[name].dtype, name=name)
                given.output(0).set_names({name})
                node.output(0).replace(given.output(0))
                read.add_parameters([given])
                products.append(one.get_friendly_name())
        read.validate_nodes_and_infer_types()
        examples = [{**one, **held} for one in examples]
        left = [*single, *products]
        scope = {"ignored_scope": nncf.IgnoredScope(names=left)} if left else {}
        model = nncf.quantize(
            read,
            nncf.Dataset(examples),
            subset_size=len(examples),
            **scope,
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(**more),
        )
        for given in list(model.get_parameters()):
            if (name := given.get_friendly_name()) in held:
                given.output(0).replace(openvino.opset13.constant(held[name]).output(0))
                model.remove_parameter(given)
        model.validate_nodes_and_infer_types()
        openvino.save_model(model, folder + "/model.xml", compress_to_fp16=False)
        answer = None
    except Exception as caught:
        answer = f"{type(caught).__name__}: {caught}"
    print(json.dumps(answer), file=said, flush=True)
"""


class _Quantizer:
    """The process that quantizes; it is started with the first model."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def quantize(self, source: Path, folder: Path, *, rough: bool) -> None:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = [str(source), str(folder), rough, saturates()]
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
                [sys.executable, "-I", "-c", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "NNCF_CI": "1"},
            )
        return self._process


_quantizer = _Quantizer()
atexit.register(_quantizer.end)


def quantize(
    source: Path, folder: Path, examples: Sequence[Mapping[str, Tensor]], *, rough: bool = False
) -> None:
    """Quantize an ONNX file to ``model.xml`` and ``model.bin`` in a folder.

    Weights are int8 with a scale for each output, and activations int8 with the ranges that the
    examples show, as NNCF does it for transformers: with SmoothQuant and a correction of biases.
    On processors whose sums of int8 products saturate, weights take half of the range.

    Args:
        source: the ONNX file.
        folder: where to write.
        examples: inputs by name, each of one row; zeros stand for inputs that they lack.
        rough: without SmoothQuant and the correction of biases, in less time: of the same speed,
            and not to be evaluated.

    Raises:
        ConversionError: NNCF cannot do it.
    """
    every = max(1, len(examples) // ROUGHLY) if rough else 1
    np.savez(folder / EXAMPLES, **_arrays(examples[::every]))
    try:
        _quantizer.quantize(source.resolve(), folder.resolve(), rough=rough)
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
