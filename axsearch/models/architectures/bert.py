"""BERT (and what loads as it, such as MiniLM)."""

from __future__ import annotations

from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import bert as modeling


class Bert(Architecture):
    """BERT: post-norm layers, separate query, key and value projections."""

    model_types = ("bert",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    embeddings = "embeddings"
    positions = "embeddings.position_embeddings"
