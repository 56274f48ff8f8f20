"""RoBERTa, XLM-RoBERTa and CamemBERT."""

from __future__ import annotations

from transformers import PreTrainedConfig

from axsearch.models.architectures.base import Architecture
from axsearch.models.architectures.modeling import bert as modeling


class Roberta(Architecture):
    """RoBERTa: BERT's layers; positions are counted from the padding token's id on."""

    model_types = ("roberta", "xlm-roberta", "camembert")
    modeling_module = modeling.__name__
    layout = modeling.LAYOUT
    embeddings = "embeddings"
    positions = "embeddings.position_embeddings"

    def longest(self, config: PreTrainedConfig) -> int:
        """The position embeddings less those up to the padding token's id, which are not used."""
        return int(config.max_position_embeddings - config.pad_token_id - 1)
