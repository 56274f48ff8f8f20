"""BERT (and what loads as it, such as MiniLM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from axsearch.approximations import Axis, Site, Units
from axsearch.architectures.base import Architecture
from axsearch.architectures.modeling import bert as modeling
from axsearch.recipe import SiteId


class Bert(Architecture):
    """BERT: post-norm layers, separate query, key and value projections."""

    model_types = ("bert",)
    modeling_module = modeling.__name__
    config_class = modeling.AxsearchBertConfig
    exported = {  # noqa: RUF012
        "text-classification": modeling.AxsearchBertForSequenceClassification,
    }

    def sites(self, config: PreTrainedConfig, length: int) -> tuple[Site, ...]:
        """Attention, then FFN, of every layer."""
        hidden, heads, neurons = (
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
        )
        width = hidden // heads
        sites = []
        for layer in range(config.num_hidden_layers):
            at = self.layer_prefix(layer)
            inputs = [
                f"{at}attention.self.{projection}.{kind}"
                for projection in ("query", "key", "value")
                for kind in ("weight", "bias")
            ]
            attention = Units(
                count=heads,
                width=width,
                axes=(
                    *(Axis(name, 0) for name in inputs),
                    Axis(f"{at}attention.output.dense.weight", 1),
                ),
                whole=(f"{at}attention.output.dense.bias",),
            )
            ffn = Units(
                count=neurons,
                width=1,
                axes=(
                    Axis(f"{at}intermediate.dense.weight", 0),
                    Axis(f"{at}intermediate.dense.bias", 0),
                    Axis(f"{at}output.dense.weight", 1),
                ),
                whole=(f"{at}output.dense.bias",),
            )
            head_parameters = 3 * (width * hidden + width) + width * hidden
            sites.append(Site(SiteId(layer, "attention"), attention, head_parameters, length))
            sites.append(Site(SiteId(layer, "ffn"), ffn, 2 * hidden + 1, length))
        return tuple(sites)

    def layer_prefix(self, layer: int) -> str:
        """``bert.encoder.layer.3.``."""
        return f"bert.encoder.layer.{layer}."

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The encoder's layers."""
        bert: Any = model.bert
        layers: nn.ModuleList = bert.encoder.layer
        return layers

    def set_layers(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        """Keep these layers, and say so in the config."""
        bert: Any = model.bert
        bert.encoder.layer = nn.ModuleList(layers)
        model.config.num_hidden_layers = len(layers)

    def apply_shapes(self, model: PreTrainedModel, shapes: list[dict[str, Any]]) -> None:
        """As an exported model does when it is opened."""
        bert: Any = model.bert
        modeling.apply_shapes(bert, shapes)

    def gates(self, model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module]]:
        """The two output projections of each layer."""
        layers: Any = self.layers(model)
        return [(layer.attention.output.dense, layer.output.dense) for layer in layers]
