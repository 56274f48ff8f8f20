"""What axsearch must know of a model family."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from axsearch.approximations.modeling import Block, Layout, fan_in
from axsearch.approximations.site import FFN, ONE_TOKEN, OUTSIDE, Axis, Site, SiteId, Units
from axsearch.models.origin import Origin

READS_FIRST = ("ForSequenceClassification", "ForImageClassification")
"""How the names of classes end whose head reads the first token alone, in most families."""


class Architecture(ABC):
    """A model family: where its layers, heads and FFNs are, and what is particular to it.

    One file in this folder is one family. ``modeling_module`` names the module whose source an
    export carries, ``layout`` is the layout of a layer in that module. ``lacks`` maps what the
    family cannot do, which approximations may need, to the reason; ``reads`` is the token
    that a classifier reads, 0 for the first or -1 for the last. Most families differ in these
    alone; the methods are for those that differ in more.
    """

    model_types: ClassVar[tuple[str, ...]]
    modeling_module: ClassVar[str]
    layout: ClassVar[Layout]
    lacks: ClassVar[Mapping[str, str]] = MappingProxyType({})
    reads: ClassVar[int] = 0
    widths: ClassVar[Mapping[str, str]] = MappingProxyType({FFN: "intermediate_size"})
    """The config's entry with the number of units that a kind of block has in all layers."""
    attention: ClassVar[str] = "sdpa"
    """The attention implementation of transformers that the family is loaded with."""
    reads_text: ClassVar[bool] = True
    positions: ClassVar[str | None] = None
    """The base model's table of learnt embeddings of absolute positions, if it has one."""
    embeddings: ClassVar[str | None] = None
    """The base model's child whose output is the first layer's input and nothing else's, if there
    is such a one: passes that begin at a higher layer do not run it."""

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The layers of a model; layers that share their tensors are listed once."""
        layers: Any = model.base_model.get_submodule(self.layout.layers)
        return layers  # type: ignore[no-any-return]

    def layer_prefix(self, model: PreTrainedModel, layer: int) -> str:
        """How the names of a layer's tensors begin, such as ``bert.encoder.layer.3.``."""
        body = "" if model.base_model is model else f"{model.base_model_prefix}."
        return f"{body}{self.layout.layers}.{layer}."

    def set_layers(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        """Keep only these layers of the model, in its config as well."""
        there = self.layers(model)
        parent, _, name = self.layout.layers.rpartition(".")
        kept = nn.ModuleList([there[layer] for layer in layers])
        setattr(model.base_model.get_submodule(parent), name, kept)
        for key, value in self.config_of(model.config, layers).items():
            setattr(model.config, key, value)

    def config_of(self, config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
        """The config's entries that change when only these layers stay."""
        return {"num_hidden_layers": len(layers)}

    def stays(self, config: PreTrainedConfig, layer: int, lost: Collection[int]) -> bool:
        """Whether a layer, one of the ``lost`` that have no block left, must keep its place."""
        return False

    def plain(self, config: PreTrainedConfig, layers: Sequence[int]) -> bool:
        """Whether the base's own class can hold exactly these layers."""
        return True

    def repeats(self, config: PreTrainedConfig, layer: int) -> int:
        """How often a forward pass runs the layer."""
        return 1

    def longest(self, config: PreTrainedConfig) -> int:
        """The longest input in tokens."""
        return int(config.max_position_embeddings)

    def example(self, config: PreTrainedConfig, rows: int, length: int) -> dict[str, Tensor]:
        """Random inputs: (rows, length) tokens, the second half of the rows half padded."""
        generator = torch.Generator().manual_seed(0)
        pad = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
        ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
        ids[ids == pad] = (pad + 1) % config.vocab_size
        mask = torch.ones_like(ids)
        mask[rows // 2 :, length // 2 :] = 0
        return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}

    def sites(self, model: PreTrainedModel, length: int = 1) -> tuple[Site, ...]:
        """Every site of the base, layer by layer; those outside of layers come last.

        Blocks that a base, which is an export, has lost are none of its sites. ``length`` is
        the longest input in tokens. Tensor names are those of the base's state dict.
        """
        origin, sites = self.origin(model), []
        for id, (block, module) in self._blocks(model, origin).items():
            outside = id.layer == OUTSIDE
            body = "" if model.base_model is model else f"{model.base_model_prefix}."
            prefix = body if outside else self.layer_prefix(model, id.layer)
            site = replace(
                _site(id, module, prefix, block, model.config, origin.kept(id)),
                length=length,
                repeats=1 if outside else self.repeats(model.config, id.layer),
                lacks={**self.lacks, **self.ruled_out(model)},
                made=origin.made(id),
            )
            if site.modules or block.narrow is not None:  # else its layer is empty
                sites.append(site)
        return tuple(sites)

    def ruled_out(self, model: PreTrainedModel) -> Mapping[str, str]:
        """What this model's head rules out, as ``lacks`` has it for all models of the family.

        A classifier reads the first token of the last layer, other heads read all.
        """
        reads_first = type(model).__name__.endswith(READS_FIRST)
        return {} if reads_first else {ONE_TOKEN: "its head reads every token"}

    def origin(self, model: PreTrainedModel) -> Origin:
        """What the model was before axsearch made it smaller, if it did.

        Raises UsageError for a config that is not as axsearch writes it.
        """
        return Origin.of(model.config, self.layout, len(self.layers(model)))

    def _blocks(self, model: PreTrainedModel, origin: Origin) -> dict[SiteId, tuple[Block, Any]]:
        """For each site that is left its block, and the module that the block's names start at."""
        inside = {
            SiteId(number, kind): (block, layer)
            for number, layer in enumerate(self.layers(model))
            for kind, block in self.layout.blocks.items()
        }
        outside = {
            SiteId(OUTSIDE, kind): (block, model.base_model)
            for kind, block in self.layout.outside.items()
        }
        every: dict[SiteId, tuple[Block, Any]] = {**inside, **outside}
        return {id: found for id, found in every.items() if not origin.lacks(id)}

    def gates(self, model: PreTrainedModel) -> dict[SiteId, nn.Module]:
        """For each site with units the module whose input holds them side by side.

        The input's last dimension is ``units * width``. Layers count from the model's own first.
        """
        return {
            id: module.get_submodule(block.output)
            for id, (block, module) in self._blocks(model, self.origin(model)).items()
            if block.output is not None
        }


def _site(
    id: SiteId,
    module: nn.Module,
    prefix: str,
    block: Block,
    config: PreTrainedConfig,
    kept: int | None,
) -> Site:
    there = dict(module.named_modules())
    units = _units(there, prefix, block, config, kept)
    names = [name for name in (*block.inputs, block.output) if name in there]
    modules = tuple(f"{prefix}{name}" for name in names)
    tables = [there[name] for name in names if isinstance(there[name], nn.Embedding)]
    rows, padding = (tables[0].num_embeddings, tables[0].padding_idx) if tables else (0, None)
    return Site(
        id,
        units,
        _unit_parameters(module, prefix, units),
        1,
        modules=modules,
        rows=rows,
        padding=padding,
    )


def _units(
    modules: Mapping[str, nn.Module],
    prefix: str,
    block: Block,
    config: PreTrainedConfig,
    kept: int | None,
) -> Units | None:
    if block.output is None:
        return None
    output: Any = modules[block.output]
    full = fan_in(output)
    if kept is not None:  # of an export, whose config has the original's number
        count = kept
    else:
        count = full if block.units is None else int(getattr(config, block.units))
    axes = []
    for name in block.inputs:
        found: Any = modules.get(name)
        if found is None:  # a projection that only some configs have
            continue
        fan_out = 1 if isinstance(found, Conv1D) else 0
        axes.append(Axis(f"{prefix}{name}.weight", fan_out, block.parts))
        if found.bias is not None:
            axes.append(Axis(f"{prefix}{name}.bias", 0, block.parts))
    out = Axis(f"{prefix}{block.output}.weight", 0 if isinstance(output, Conv1D) else 1)
    bias = f"{prefix}{block.output}.bias" if output.bias is not None else None
    whole = [bias] if bias is not None else []
    if block.norm is not None:
        norm = modules[block.norm]
        whole += [f"{prefix}{block.norm}.{name}" for name, _ in norm.named_parameters()]
    return Units(
        count=count,
        width=full // count,
        axes=(*axes, out),
        whole=tuple(whole),
        output=out,
        bias=bias,
    )


def _unit_parameters(module: nn.Module, prefix: str, units: Units | None) -> int:
    if units is None:
        return 0
    state = {name: p.numel() for name, p in module.named_parameters(prefix.removesuffix("."))}
    return sum(state[axis.tensor] // units.count for axis in units.axes)
