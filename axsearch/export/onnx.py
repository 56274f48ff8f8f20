"""``--format onnx``: one standard ONNX file for any batch size and length.

Attention is written as products and a softmax. ONNX has an operator for it since opset 23, which
ONNX Runtime runs no faster, but ``onnxruntime.quantization`` takes it for ONNX Runtime's own
operator of the same name and writes a file that does not open, and
``onnxruntime.transformers.optimizer`` cannot infer the shapes around it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from axsearch.errors import UsageError
from axsearch.export.base import CONFIG, Bundle, ExportFormat, check_files
from axsearch.export.card import model_card
from axsearch.export.checking import run_check
from axsearch.export.config import check_entries, kept_entries
from axsearch.export.tracing import traceable
from axsearch.models.architectures import architecture_of, architectures
from axsearch.models.exported import read_json
from axsearch.statistics.measurement import Measurement

MODEL = "model.onnx"
OPSET = 20  # the first with Gelu
LIMIT = 2**31 - 2**24  # bytes of weights: a protobuf file holds 2 GiB, and the graph needs some
PACKAGES = ("onnx", "onnxruntime", "onnxscript")

# Runs in a process of its own, in which none of what made the model can be imported.
CHECK = """
import json, sys
for package in ("axsearch", "onnx", "onnxscript", "torch", "transformers"):
    sys.modules[package] = None
import numpy, onnxruntime
folder = sys.argv[1]
probe = json.load(open(folder + "/probe.json"))
session = onnxruntime.InferenceSession(
    folder + "/model.onnx", providers=["CPUExecutionProvider"]
)
types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
inputs = {i.name: numpy.array(probe["inputs"][i.name], types[i.type]) for i in session.get_inputs()}
answers = session.run(list(probe["outputs"]), inputs)
expected = [numpy.array(value) for value in probe["outputs"].values()]
assert [a.shape for a in answers] == [e.shape for e in expected], "answers of another shape"
print(json.dumps(float(numpy.max([abs(a - e).max() for a, e in zip(answers, expected)]))))
"""


class Onnx(ExportFormat):
    """model.onnx with the weights inside it, tokenizer, config, recipe, probe and model card."""

    name = "onnx"
    tolerance = 1e-3

    def refusal(self, measurement: Measurement) -> str | None:
        """Every recipe can be, if the packages are installed and one file holds the weights."""
        return missing(PACKAGES) or too_large(measurement)

    def write(self, bundle: Bundle, folder: Path) -> None:
        """Write the file of torch's exporter, without the paths and code that it adds."""
        write_onnx(bundle.small, bundle.probe_inputs, bundle.probe_outputs, folder / MODEL)
        write_config(bundle, folder)
        bundle.write_common(folder, model_card(bundle, self.name))

    def check(self, folder: Path) -> float:
        """Open the folder with ONNX Runtime alone.

        A manifest holds no secret, so a folder may come from anybody: only a file that needs no
        other file and no operators but ONNX's own is opened.
        """
        check_files(folder, (MODEL,))
        check_config(folder)
        reason = missing(PACKAGES)
        if reason is not None:
            raise UsageError(f"{folder} cannot be opened: {reason}.")
        _check_model(folder / MODEL)
        return run_check(CHECK, folder)


def missing(packages: Iterable[str]) -> str | None:
    """Which packages an export lacks and how to get them; None if all are there."""
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not installed, run pip install 'axsearch[export]'"


def too_large(measurement: Measurement) -> str | None:
    """Why one ONNX file cannot hold the weights; None if it can."""
    if measurement.size_bytes <= LIMIT:
        return None
    return f"its weights take {measurement.size_bytes:,} bytes and one ONNX file holds 2 GiB"


def write_config(bundle: Bundle, folder: Path) -> None:
    """The base's config for readers of the labels' names: plain, with the layers that are left."""
    config = kept_entries(bundle.small.config)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def check_config(folder: Path) -> None:
    """Raise UsageError where the config is not as :func:`write_config` writes it.

    The runtimes do not read it, but whoever uses the export reads the names of labels there.
    """
    path = folder / CONFIG
    data = read_json(path)
    kind = str(data.get("model_type"))
    if kind not in architectures():
        raise UsageError(f"{path} names a model that axsearch does not write; export it again.")
    check_entries(path, data, type(AutoConfig.for_model(kind)))


def write_onnx(
    model: PreTrainedModel, probe: Mapping[str, Tensor], answers: Iterable[str], path: Path
) -> None:
    """Trace a model with batch size and length left open, and write it to one file.

    Args:
        model: in evaluation mode, on the CPU.
        probe: inputs by name, (rows, length) or (rows, …) for images. The traced input is smaller
            in both sizes, so that the probe shows that they are open.
        answers: the names of the outputs to write, among those of the model.
        path: where to write.
    """
    from onnxscript.optimizer import optimize

    names = tuple(answers)
    longest = architecture_of(model.config.model_type).longest(model.config)
    open_sizes = (torch.export.Dim("batch"), torch.export.Dim("length", max=longest))
    example, sizes = {}, {}
    for name, tensor in probe.items():
        words = tensor.dim() == 2  # an image has sizes that the model sets
        size = tensor.shape[1] * 2 // 3
        example[name] = (tensor[1:, :size] if words else tensor[1:]).contiguous()
        sizes[name] = dict(enumerate(open_sizes if words else open_sizes[:1]))
    shapes = {"tensors": tuple(sizes.values())}
    with _quiet(), torch.inference_mode():
        graph = torch.export.export(
            _Answers(traceable(model), tuple(example), names).eval(),
            tuple(example.values()),
            dynamic_shapes=shapes,
            strict=False,
        )
        program = torch.onnx.export(
            graph,
            input_names=list(example),
            output_names=list(names),
            dynamic_shapes=shapes,  # for the names of the sizes
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # its rotary embedding is not ONNX's where the positions have one row
            verbose=False,
        )
        assert program is not None
        optimize(program.model)
    _forget_origin(program.model)
    program.save(path, external_data=False)


class _Answers(nn.Module):
    """A model with the inputs and outputs of these names, in this order."""

    def __init__(
        self, model: PreTrainedModel, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        answer = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(answer[name] for name in self.outputs)


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter warns of its own use of torch and of packages that no model here needs.
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _forget_origin(model: Any) -> None:
    # Stack traces with the paths of the machine, on every node and value.
    model.metadata_props.clear()
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for value in graph.initializers.values():
            # The tensors say it; a second time it is wrong once a tool has transposed one, and
            # onnxruntime.quantization does.
            value.shape = value.type = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _check_model(path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError):
        raise UsageError(f"{path} is damaged; export the model again.") from None
    domains = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    if domains or model.functions or any(t.external_data for t in _tensors(model, onnx)):
        raise UsageError(
            f"{path} is not as axsearch writes it, with operators or files that are not its own, "
            "so it is not opened; export the model again."
        )


def _tensors(message: Any, onnx: Any) -> Iterator[Any]:
    # All of them, also those in attributes and in graphs inside of nodes.
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for member in value if field.is_repeated else (value,):
                yield from _tensors(member, onnx)
