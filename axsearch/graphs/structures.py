"""Graphs of models with the same structure: traced once, with the weights of each.

Tracing a model takes torch some seconds, whatever its size, and a latency table takes dozens of
models. Models that differ in their units alone have the same graph but for its weights, since
transformers writes the number of heads as what is left of the width.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.approximations.choices import Subset
from axsearch.approximations.site import OUTSIDE
from axsearch.graphs.onnx import LIMIT, ConversionError, answers, held, traced, turned
from axsearch.models.architectures import architecture_of
from axsearch.models.origin import ENTRY

TOLERANCE = 1e-4
"""How far answers of a graph may be from the model's, as a share of the largest of these, or of 1
where that is larger."""

MOST = 32
"""Structures whose graphs are kept in memory, without their weights: some kilobytes each."""

PREFIX = "model."
"""What a traced weight's name begins with, before its name in the model."""


@dataclass(frozen=True)
class _Structure:
    """A graph without weights, and the names of those that it lacks."""

    graph: Any
    weights: Sequence[str]


_known: LRUCache[str, _Structure] = LRUCache(MOST)
_one_at_a_time = threading.Lock()  # as tracing is


def graph_of(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    """A model's graph as an ``onnx.ModelProto``, with its answers compared with the model's.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: by name, see :func:`axsearch.graphs.onnx.example`. The graph takes these.

    Raises:
        ConversionError: the graph answers otherwise than the model, or its weights are more than
            one file can hold.
    """
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > LIMIT:
        raise ConversionError(
            f"The weights of this model take {size:,} bytes in float32, and an ONNX graph holds 2 "
            "GiB; only PyTorch can run it."
        )
    with _one_at_a_time:
        return _graph_of(model, inputs)


def _graph_of(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    expected = answers(model, inputs)
    key = f"{structure_key(model)} {list(inputs)}"
    if key in _known:
        graph = _with_weights(_known[key], model)
        if graph is not None and _differs(graph, inputs, expected) is None:
            return graph
    graph = traced(model, inputs, expected)
    apart = _differs(graph, inputs, expected)
    if apart is not None:
        raise ConversionError(f"The ONNX graph of this model answers otherwise than it: {apart}.")
    _known[key] = _without_weights(graph, model)
    return graph


def structure_key(model: PreTrainedModel) -> str:
    """What a model's graph depends on beside the weights and their sizes, tokens among them."""
    family = architecture_of(model.config.model_type)
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in (ENTRY, "vocab_size", *family.widths.values())
    }
    origin = family.origin(model)
    places = {layer: place for place, layer in enumerate(origin.layers)} | {OUTSIDE: OUTSIDE}
    choices = [
        (places[site.layer], site.kind, name, None if choice.removes else choice.to_dict())
        for site, name, choice in origin.recipe.choices()
        if site.layer in places and (choice.removes or not isinstance(choice, Subset))
    ]
    modules = [(name, type(module).__name__) for name, module in model.named_modules()]
    return json.dumps([config, choices, modules], sort_keys=True, default=str)


def _without_weights(graph: Any, model: PreTrainedModel) -> _Structure:
    import onnx

    state = model.state_dict()
    weights = []
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    constants = []
    for tensor in bare.graph.initializer:
        own, _ = held(tensor.name.removeprefix(PREFIX))
        if tensor.name.startswith(PREFIX) and own in state:
            weights.append(tensor.name)
        else:
            constants.append(tensor)
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(kept)
    del bare.graph.value_info[:]  # sizes within this model
    return _Structure(bare, weights)


def _with_weights(structure: _Structure, model: PreTrainedModel) -> Any | None:
    """The graph with a model's weights; None where it has others."""
    import onnx

    state = model.state_dict()
    graph = onnx.ModelProto()
    graph.CopyFrom(structure.graph)
    for name in structure.weights:
        own, steps = held(name.removeprefix(PREFIX))
        if own not in state:
            return None
        try:
            values = turned(state[own].detach().cpu().numpy(), steps)
        except ValueError:  # a tracer wrote the sizes that the other model had
            return None
        graph.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return graph


def _differs(
    graph: Any, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str | None:
    """How a graph's answers are not those expected; None where they are."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(list(expected), {name: t.numpy() for name, t in inputs.items()})
    except Exception as error:  # ONNX Runtime's have no common kind
        return f"it cannot be run ({error})"
    for own, answer in zip(found, expected.values(), strict=True):
        if own.shape != answer.shape:
            return "answers of another shape"
        most = TOLERANCE * max(1.0, float(answer.abs().max()))
        difference = float(np.abs(own - answer.numpy()).max())
        if not difference <= most:
            return f"a difference of {difference:.1e}"
    return None
