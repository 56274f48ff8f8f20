"""The process in which NNCF quantizes: run as a script, it imports nothing of axsearch.

It reads requests as lines of JSON, ``[source, folder, saturates, structure]``, and answers each
with null or with what went wrong, see :mod:`axsearch.graphs.nncf`.

A model that is only timed takes what NNCF found for the first one of its structure, with the sizes
of its own weights: where quantizers go is half of the work, and depends on the structure alone. Its
weights are not right then, but integers like any others.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FEWEST_AXES = 3
"""Of a constant that several matrices are in."""

MOST = 16
"""Structures that are remembered, each with one quantized model."""

FOLLOWED = ("Reshape", "Transpose", "Unsqueeze")
"""What may lie between a constant and a product."""


class Quantizer:
    """Quantizes ONNX files one after the other."""

    def __init__(self) -> None:
        import nncf  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import openvino  # type: ignore[import-untyped]
        import openvino.opset13 as operators  # type: ignore[import-untyped]

        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # its graphs are many objects, of which most stay
        nncf.set_log_level(logging.ERROR)
        self._nncf, self._openvino, self._operators = nncf, openvino, operators
        self._core = openvino.Core()
        self._known: dict[str, tuple[list[_Operation], Any]] = {}

    def run(self, source: str, folder: str, saturates: bool, structure: str | None) -> None:
        """Quantize one file to ``model.xml`` in the folder, which has ``examples.npz``.

        A structure is given for a model that is timed only.
        """
        read = self._core.read_model(source)
        operations = _operations(read)  # before they are quantized
        found = None
        if structure in self._known:
            found = self._resized(*self._known[structure], operations)
        if found is None:
            found = self._quantized(read, Path(folder), saturates, rough=structure is not None)
            if structure is not None:
                self._known.pop(structure, None)
                while len(self._known) >= MOST:
                    del self._known[next(iter(self._known))]
                self._known[structure] = operations, found.clone()
        self._openvino.save_model(found, f"{folder}/model.xml", compress_to_fp16=False)

    def _quantized(self, read: Any, folder: Path, saturates: bool, *, rough: bool) -> Any:
        nncf = self._nncf
        more: dict[str, Any] = {}
        if saturates:
            more["overflow_fix"] = nncf.OverflowFix.ENABLE
        if rough:
            more["disable_bias_correction"] = True
        examples = _examples(folder / "examples.npz", [one.any_name for one in read.inputs])
        left = [*_single_rows(read)]
        held = self._hold(read, left)
        read.validate_nodes_and_infer_types()
        examples = [{**one, **held} for one in examples]
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
                constant = self._operators.constant(held[name], name=name)
                given.output(0).replace(constant.output(0))
                model.remove_parameter(given)
        model.validate_nodes_and_infer_types()
        return model

    def _hold(self, read: Any, left: list[str]) -> dict[str, Any]:
        """Take the matrices of products of several as parameters, and leave these products out.

        SmoothQuant fails where one product is of several matrices, as in a narrowed last layer:
        these are small, stay in float32, and are no weights while it looks.
        """
        held: dict[str, Any] = {}
        for one in list(read.get_ordered_ops()):
            for port in one.input_values() if one.get_type_name() == "MatMul" else ():
                node = port.get_node()
                while node.get_type_name() in FOLLOWED:
                    node = node.input_value(0).get_node()
                if port.get_partial_shape().rank.get_length() < FEWEST_AXES:
                    continue
                if node.get_friendly_name() in held:  # by another product of the same
                    left.append(one.get_friendly_name())
                if node.get_type_name() != "Constant":
                    continue
                name = node.get_friendly_name()
                held[name] = np.array(node.data)
                given = self._operators.parameter(held[name].shape, held[name].dtype, name=name)
                given.output(0).set_names({name})
                node.output(0).replace(given.output(0))
                read.add_parameters([given])
                left.append(one.get_friendly_name())
        return held

    def _resized(
        self, before: Sequence[_Operation], quantized: Any, other: Sequence[_Operation]
    ) -> Any | None:
        """A quantized model with the sizes of another one of its structure; None if it is not.

        Args:
            before: the operations of what was quantized, as it was read.
            quantized: what NNCF made of it.
            other: the operations of the other one.
        """
        if [one.like for one in before] != [one.like for one in other]:
            return None
        sizes = {one.name: (one.sizes, its.sizes) for one, its in zip(before, other, strict=True)}
        model = quantized.clone()
        for operation in model.get_ordered_ops():
            was, now = sizes.get(operation.get_friendly_name(), ([], []))
            ports = [port.get_node() for port in operation.input_values()]
            for node, old, new in zip(ports, was, now, strict=False):
                for constant in _constants(node, sizes) if len(old) == len(new) else ():
                    self._resize(constant, old, new)
        try:
            model.validate_nodes_and_infer_types()
        except RuntimeError:
            return None
        return model

    def _resize(self, constant: Any, old: list[int], new: list[int]) -> None:
        """Give a constant that goes into a port of a shape the shape that it has in another model.

        It may have fewer dimensions, and 1 in place of a size.
        """
        own = list(constant.get_output_shape(0))
        if len(own) > len(old):
            return
        sizes = zip(own, old[len(old) - len(own) :], new[len(new) - len(own) :], strict=True)
        wanted = [after if size == before else size for size, before, after in sizes]
        if wanted != own:
            data = np.resize(np.array(constant.data), wanted)
            made = self._operators.constant(data, dtype=constant.get_output_element_type(0))
            made.set_friendly_name(constant.get_friendly_name())
            constant.output(0).replace(made.output(0))


class _Operation(NamedTuple):
    """What is remembered of an operation that was read.

    Attributes:
        name: that it keeps when it is quantized.
        like: its type, and the integers that it takes as constants, such as a number of heads in a
            new shape: an operation that differs in these is another one.
        sizes: the shape of each input, with 0 for sizes that are open.
    """

    name: str
    like: tuple[str, tuple[bytes, ...]]
    sizes: list[list[int]]


def _operations(model: Any) -> list[_Operation]:
    """All but constants, in an order that models of one structure share."""
    every = [one for one in model.get_ordered_ops() if one.get_type_name() != "Constant"]
    return [
        _Operation(one.get_friendly_name(), (one.get_type_name(), _integers(one)), _sizes(one))
        for one in every
    ]


def _integers(operation: Any) -> tuple[bytes, ...]:
    nodes = [port.get_node() for port in operation.input_values()]
    values = [np.array(one.data) for one in nodes if one.get_type_name() == "Constant"]
    return tuple(one.tobytes() for one in values if one.dtype.kind in "iub")


def _sizes(operation: Any) -> list[list[int]]:
    shapes = [port.get_partial_shape() for port in operation.input_values()]
    found = [
        [0 if size.is_dynamic else size.get_length() for size in shape]
        if shape.rank.is_static
        else []
        for shape in shapes
    ]
    if operation.get_type_name() == "MatMul" and all(len(shape) > 1 for shape in found):
        # The size that is summed over: open where heads were joined, known of the weight.
        turned = operation.get_attributes()
        left, right = -2 if turned["transpose_a"] else -1, -1 if turned["transpose_b"] else -2
        found[0][left] = found[1][right] = found[0][left] or found[1][right]
    return found


def _constants(node: Any, known: Collection[str]) -> Iterator[Any]:
    """The constants between a node and those of these names, which were there before."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_type_name() == "Constant":
            yield one
        elif one.get_friendly_name() not in known:
            waiting += [port.get_node() for port in one.input_values()]


def _examples(path: Path, names: list[str]) -> list[dict[str, Any]]:
    """Inputs, one of one row each, with zeros where there are none, as for a single text."""
    rows: dict[int, dict[str, Any]] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            number, _, own = name.partition(" ")
            rows.setdefault(int(number), {})[own] = arrays[name]
    found = []
    for number in sorted(rows):
        none = np.zeros_like(next(iter(rows[number].values())))
        found.append({name: rows[number].get(name, none) for name in names})
    return found


def _single_rows(read: Any) -> Iterator[str]:
    """Look-ups in a table of one row, as for the one kind of text: quantized, they do not open."""
    for one in read.get_ordered_ops():
        if one.get_type_name() != "Gather":
            continue
        table = one.input_value(0).get_node()
        if table.get_type_name() == "Constant" and list(one.input_value(0).get_shape())[:1] == [1]:
            yield one.get_friendly_name()


def main() -> None:
    """Answer requests until there are no more."""
    # NNCF does without torch where there is none: it takes 2 of the 3 seconds, and half of the
    # memory, with which this process would start.
    for package in ("axsearch", "openvino_telemetry", "torch"):
        sys.modules[package] = None  # type: ignore[assignment]
    said = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # progress bars
    os.dup2(silent, 2)
    quantizer: Quantizer | None = None
    for line in sys.stdin:
        answer = None
        try:
            quantizer = quantizer or Quantizer()
            quantizer.run(*json.loads(line))
        except Exception as caught:  # of any kind: NNCF's and OpenVINO's have none in common
            answer = f"{type(caught).__name__}: {caught}"
        print(json.dumps(answer), file=said, flush=True)


if __name__ == "__main__":
    main()
