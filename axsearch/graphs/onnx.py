"""A PyTorch model as an ONNX graph, for any batch size and length.

Attention is written as products and a softmax. ONNX has an operator for it since opset 23, which
ONNX Runtime runs no faster, but ``onnxruntime.quantization`` takes it for ONNX Runtime's own
operator of the same name and writes a file that does not open, and
``onnxruntime.transformers.optimizer`` cannot infer the shapes around it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.errors import AxsearchError
from axsearch.graphs.tracing import traceable
from axsearch.models.architectures import architecture_of

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

OPSET = 20  # the first with Gelu
LIMIT = 2**31 - 2**24
"""Bytes of weights: a protobuf file holds 2 GiB, and the graph needs some."""

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
"""The outputs that a model may have; a graph has those that its model has."""


class ConversionError(AxsearchError):
    """A model cannot be brought into the form that a runtime opens."""


ROWS, LENGTH = 4, 24
"""The inputs of :func:`example`; a traced input is smaller in both sizes."""

STEP = re.compile(r"\.(reshaped|permuted)\(([-\d,]+)\)$")
"""What is added to the name of a weight that a graph holds in another shape, or transposed."""


def missing(packages: Iterable[str]) -> str | None:
    """Which packages are not installed and how to get them; None if all are there."""
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not installed, run pip install 'axsearch[export]'"


def example(
    model: PreTrainedModel, length: int = LENGTH, *, rows: int = ROWS, segments: bool = True
) -> dict[str, Tensor]:
    """Random inputs of a model, (rows, length) or (rows, …) for images; half of the rows padded.

    With ``segments``, tokens of a second text are marked where the model tells two texts apart.
    """
    config = model.config
    inputs = architecture_of(config.model_type).example(config, rows, length)
    name = "token_type_ids"
    if segments and "input_ids" in inputs and name in signature(model.forward).parameters:
        # Which of two texts a token is of; a traced graph takes no input that is not here.
        inputs[name] = torch.zeros(rows, length, dtype=torch.int64)
        if getattr(config, "type_vocab_size", 0) > 1:
            inputs[name][:, length // 3 :] = 1
    return inputs


def taken(batch: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The inputs that a graph takes, with zeros where a batch has none, as for a single text."""
    like = next(iter(batch.values()))
    return {name: batch.get(name, torch.zeros_like(like)) for name in names}


def answers(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's outputs for these inputs, by name."""
    with torch.inference_mode():
        found = model(**inputs)
    return {name: found[name] for name in OUTPUTS if name in found}


def traced(model: PreTrainedModel, inputs: Mapping[str, Tensor], outputs: Iterable[str]) -> Any:
    """The graph of a model, as an ``onnx.ModelProto`` without the paths and code of its origin.

    Its weights have their names in ``model.state_dict()`` after ``model.``, and after them how they
    are held, see :func:`held`.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: by name, as :func:`example` makes them: the traced input has one row fewer and is
            shorter, so that these can show that both sizes are open.
        outputs: the names of the outputs to write, among those of the model.
    """
    from onnxscript import ir
    from onnxscript.optimizer import optimize

    names = tuple(outputs)
    longest = architecture_of(model.config.model_type).longest(model.config)
    open_sizes = (torch.export.Dim("batch"), torch.export.Dim("length", max=longest))
    given, sizes = {}, {}
    for name, tensor in inputs.items():
        words = tensor.dim() == 2  # an image has sizes that the model sets
        size = tensor.shape[1] * 2 // 3
        given[name] = (tensor[1:, :size] if words else tensor[1:]).contiguous()
        sizes[name] = dict(enumerate(open_sizes if words else open_sizes[:1]))
    shapes = {"tensors": tuple(sizes.values())}
    with _quiet(), torch.inference_mode():
        graph = torch.export.export(
            _Answers(traceable(model), tuple(given), names).eval(),
            tuple(given.values()),
            dynamic_shapes=shapes,
            strict=False,
        )
        program = torch.onnx.export(
            graph,
            input_names=list(given),
            output_names=list(names),
            dynamic_shapes=shapes,  # for the names of the sizes
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # its rotary embedding is not ONNX's where the positions have one row
            verbose=False,
        )
        assert program is not None
        _turn_weights(program.model.graph, ir)
        _leave_open(program.model.graph, ir)
        optimize(program.model)
    _forget_origin(program.model)
    return ir.serde.serialize_model(program.model)


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


def held(name: str) -> tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    """The name of a weight in the model, and the steps from there to the one in a graph.

    Args:
        name: in a graph, such as ``layer.0.dense.weight.permuted(1,0)``.
    """
    steps: list[tuple[str, tuple[int, ...]]] = []
    while (found := STEP.search(name)) is not None:
        name = name[: found.start()]
        steps.insert(0, (found[1], tuple(map(int, found[2].split(",")))))
    return name, tuple(steps)


def turned(values: Any, steps: Iterable[tuple[str, tuple[int, ...]]]) -> Any:
    """An array after these steps: reshaped, where -1 is what is left, or its axes permuted."""
    for step, numbers in steps:
        values = values.reshape(numbers) if step == "reshaped" else values.transpose(numbers)
    return np.ascontiguousarray(values)


def _turn_weights(graph: Any, ir: Any) -> None:
    """Put weights in place of themselves and the nodes that reshape or transpose them.

    The optimizer would, too, but under a name that says nothing.
    """
    made: dict[str, Any] = {}
    for node in list(graph):
        weight, numbers = node.inputs[0] if node.inputs else None, _turns(node)
        if weight is None or not numbers:
            continue
        if weight.name not in graph.initializers or weight.const_value is None:
            continue
        step = "reshaped" if node.op_type == "Reshape" else "permuted"
        name = f"{weight.name}.{step}({','.join(map(str, numbers))})"
        if name not in made:
            values = turned(weight.const_value.numpy(), [(step, numbers)])
            made[name] = _constant(graph, ir, name, values)
        ir.convenience.replace_all_uses_with(node.outputs[0], made[name])
        graph.remove(node, safe=True)


def _leave_open(graph: Any, ir: Any) -> None:
    """Write the shapes that leave a size open, as the number of heads is, as constants.

    The optimizer would put in the sizes that this model has.
    """
    for node in list(graph):
        shape = node.inputs[1].producer() if node.op_type == "Reshape" else None
        if shape is None or shape.op_type != "Concat":
            continue
        first, rest = shape.inputs[0], [_numbers(one) for one in shape.inputs[1:]]
        numbers = [number for part in rest for number in part]
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if _numbers(first) or not all(rest) or -1 not in numbers or not before or not after:
            continue
        if before[0] == after[0]:  # 0 is for the size that there is
            name, values = f"{node.outputs[0].name}_shape", np.array([0, *numbers])
            node.replace_input_with(1, _constant(graph, ir, name, values))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _constant(graph: Any, ir: Any, name: str, values: Any) -> Any:
    """A new initializer of a graph."""
    tensor = ir.tensor(values, name=name)
    made = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(made)
    return made


def _turns(node: Any) -> tuple[int, ...]:
    """The new shape or the order of axes, where a node gives its input these; else none."""
    if node.op_type == "Transpose" and "perm" in node.attributes:
        return tuple(node.attributes["perm"].as_ints())
    return _numbers(node.inputs[1]) if node.op_type == "Reshape" else ()


def _numbers(value: Any) -> tuple[int, ...]:
    """What a value that does not depend on the inputs holds; nothing for others."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Concat":
        parts = [_numbers(one) for one in producer.inputs]
        return tuple(number for part in parts for number in part) if all(parts) else ()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return tuple(producer.attributes["value"].as_tensor().numpy().reshape(-1).tolist())
    if producer is not None and producer.op_type == "Constant":
        (attribute,) = producer.attributes.values()
        return tuple(attribute.as_ints())
    return () if value.const_value is None else tuple(value.const_value.numpy().tolist())


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
