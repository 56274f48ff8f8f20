"""int8 for ONNX Runtime: its own dynamic quantization."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axsearch.graphs.conversion import MODEL

KEY = "dynamic 1"
"""Which way of quantizing this is, for the keys of what depends on it."""


def quantize(source: Path, folder: Path) -> None:
    """Quantize an ONNX file to ``model.onnx`` in a folder.

    Weights are int8 with a scale for each output, and activations are quantized as they come;
    embeddings are int8, too, with one scale. All else stays in float32: ONNX Runtime's tool leaves
    out products of two activations, which gain nothing. So are products with several matrices at
    once, for which ONNX Runtime has no kernel with more than one scale.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

    graph = onnx.load(source).graph
    several = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    excluded = [node.name for node in graph.node if several & {*node.input}]
    with _quiet():
        quantize_dynamic(source, folder / MODEL, per_channel=True, nodes_to_exclude=excluded)


@contextmanager
def _quiet() -> Iterator[None]:
    # It recommends an optimization that its runtime makes anyway, on the root logger.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
