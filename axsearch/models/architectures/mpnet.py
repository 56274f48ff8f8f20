"""MPNet."""

from __future__ import annotations

from transformers import PreTrainedConfig

from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import mpnet as modeling


class MPNet(Architecture):
    """MPNet: post-norm layers that share one table of position biases, a column a head."""

    model_types = ("mpnet",)
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    embeddings = "embeddings"
    positions = "embeddings.position_embeddings"
    attention = "eager"  # the only one there is: the scores get a bias

    def longest(self, config: PreTrainedConfig) -> int:
        """As in RoBERTa, positions are counted from the padding token's id on."""
        return int(config.max_position_embeddings - config.pad_token_id - 1)
