"""Files of a model in the form that a runtime opens, kept in the user's cache.

Tracing a model takes seconds, and quantizing it again as long. The same model is timed, evaluated
on two splits and exported, often by several commands, so its files are kept under a key of its
weights and structure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.graphs import onnx, structures, tracing
from axsearch.models.placing import placed
from axsearch.system.folder_cache import FolderCache

MODEL = "model.onnx"

MOST_BYTES = 4 * 2**30
"""Size of the cache; a model of 20 million parameters takes 90 MB, and 25 MB in int8."""

PACKAGES = ("axsearch", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
"""What a graph depends on, with the modules here."""


def versions(packages: Sequence[str]) -> list[str]:
    """The versions of packages, for a key; empty for one that is not installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} -")
    return found


def _cache() -> FolderCache:
    sources = [Path(str(one.__file__)).read_bytes() for one in (onnx, structures, tracing)]
    code = [hashlib.sha256(source).hexdigest() for source in sources]
    return FolderCache("graphs", MOST_BYTES, [*versions(PACKAGES), *code])


def content_key(model: PreTrainedModel) -> str:
    """SHA-256 of a model's structure and of all its weights."""
    digest = hashlib.sha256(structures.structure_key(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def onnx_file(model: PreTrainedModel, *, lasting: bool = True) -> Iterator[Path]:
    """The ONNX file of a model in float32, which takes :func:`axsearch.graphs.onnx.example`.

    Args:
        model: in evaluation mode.
        lasting: whether it is kept in the cache.
    """

    def write(folder: Path) -> None:
        write_onnx(model, onnx.example(model), folder / MODEL)

    with _cache().folder([content_key(model)], write, lasting=lasting) as folder:
        yield folder / MODEL


@contextmanager
def converted(
    model: PreTrainedModel,
    key: Sequence[str],
    convert: Callable[[Path, Path], None],
    *,
    lasting: bool = True,
) -> Iterator[Path]:
    """The folder with what is made of a model's ONNX file.

    Args:
        model: in evaluation mode.
        key: what the result depends on beside the model, versions included.
        convert: receives the ONNX file and the folder to write to.
        lasting: whether it is kept in the cache.
    """

    def write(folder: Path) -> None:
        with onnx_file(model, lasting=lasting) as source:
            convert(source, folder)

    with _cache().folder([content_key(model), *key], write, lasting=lasting) as folder:
        yield folder


def write_onnx(model: PreTrainedModel, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write a model's graph in float32 to one file; what is in the cache is not looked at.

    Args:
        model: in evaluation mode.
        inputs: those that the graph takes, see :func:`axsearch.graphs.onnx.example`.
        path: where to write.

    Raises:
        ConversionError: the graph answers otherwise than the model, or is too large.
    """
    import onnx as package

    package.save(structures.graph_of(placed(model, "cpu"), inputs), path)
