"""ELECTRA."""

from __future__ import annotations

from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import bert as modeling


class Electra(Architecture):
    """ELECTRA: BERT's layers, embeddings that may be narrower than the hidden state."""

    model_types = ("electra",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    positions = "embeddings.position_embeddings"
