"""What an approximation is: the half with torch, which cuts tensors and changes modules.

An ``hf`` export carries the source of this file, of the family's module and of the ``modeling.py``
of the approximations that its recipe uses, as one file. So these import torch, transformers, each
other and :mod:`axsearch.kernels` only, and their top-level names differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from axsearch.approximations.site import Site


@dataclass(frozen=True)
class Block:
    """The modules of a site, by their names inside the layer.

    Heads or neurons lie side by side in the outputs of ``inputs`` (``parts`` times one after the
    other, 3 for a fused query-key-value projection) and in the input of ``output``, None for a
    site without units. ``norm`` is the LayerNorm that goes with the block: that of a pre-norm
    layer. ``remove`` takes the block out of a layer.

    ``units`` names the config's entry with the number of units, where they are wider than one row;
    ``counts`` and ``widths`` name the attributes of ``core`` (the module that attends) that hold
    the number of units and their joint width. ``activation`` is the module between the projections.

    ``narrow``, of a block that stands for the whole stack of layers, lets the last layer of a model
    compute only the token that its head reads.
    """

    inputs: tuple[str, ...] = ()
    output: str | None = None
    remove: Callable[[Any], None] | None = None
    parts: int = 1
    norm: str | None = None
    units: str | None = None
    core: str | None = None
    counts: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    activation: str | None = None
    narrow: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Position:
    """Where a layer of a smaller model stands, for :attr:`Layout.finish`.

    Attributes:
        layer: its number in the original model.
        removed: the kinds of its blocks that were removed.
        below: for each kind how many layers below still have their block.
    """

    layer: int
    removed: frozenset[str]
    below: Mapping[str, int]


@dataclass(frozen=True)
class Layout:
    """Where a family keeps what can be approximated.

    ``layers`` is a name inside the base model; ``blocks`` are those of a layer by their kind of
    site, in the order of a forward pass, ``outside`` those that belong to no layer, with names
    inside the base model. ``finish`` is called with a layer, its position and the config after all
    else; ``empty_layer`` makes the module that replaces a layer which has lost all its blocks and
    must keep its place, where taking the blocks out would leave their norms.
    """

    layers: str
    blocks: Mapping[str, Block]
    outside: Mapping[str, Block] = field(default_factory=dict)
    finish: Callable[[Any, Position, Any], None] | None = None
    empty_layer: Callable[[], nn.Module] | None = None


def encoder_layout(layers: str, *, attention: Block, ffn: Block, **more: Any) -> Layout:
    """The layout of a family whose layers have two blocks, attention first."""
    return Layout(layers, {"attention": attention, "ffn": ffn}, **more)


@dataclass(frozen=True)
class Target:
    """What a choice is installed into.

    ``module`` is the layer, or the base model for a site outside of layers; its tensors may be on
    the meta device.
    """

    model: PreTrainedModel
    module: nn.Module
    block: Block


class Modeling:
    """Cuts the tensors of a choice and installs what it needs; ``choice`` is its JSON form.

    :meth:`cut` is called when a state dict is made smaller, :meth:`install` when the modules of a
    smaller model are made, in a search and in an exported model.
    """

    @classmethod
    def removes(cls, choice: Mapping[str, Any]) -> bool:
        """Whether the whole block is removed; then it is not installed."""
        return False

    @classmethod
    def cut(cls, site: Site, choice: Mapping[str, Any], state: MutableMapping[str, Tensor]) -> None:
        """Slice the site's tensors in ``state``, a state dict with the base's names."""

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Change the modules of a target; new tensors are left for the caller to fill."""


class UnitModeling(Modeling):
    """Removes units of a block: rows of its first projections, columns of its last."""

    @classmethod
    def removes(cls, choice: Mapping[str, Any]) -> bool:
        """Where no unit is kept."""
        return not kept_units(choice)

    @classmethod
    def cut(cls, site: Site, choice: Mapping[str, Any], state: MutableMapping[str, Tensor]) -> None:
        """Keep only the rows and columns of the kept units; drop all tensors if none is kept."""
        units, kept = site.units, kept_units(choice)
        assert units is not None
        if not kept:
            for name in (*(axis.tensor for axis in units.axes), *units.whole):
                state.pop(name, None)
            return
        for axis in units.axes:
            if axis.tensor not in state:  # a projection without bias
                continue
            shape = (axis.parts, units.count, units.width)
            apart = state[axis.tensor].unflatten(axis.dim, shape)
            left = apart[(slice(None),) * (axis.dim + 1) + (kept,)]
            state[axis.tensor] = left.flatten(axis.dim, axis.dim + 2)

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Make the projections as wide as the kept units, and update the core's counts."""
        block, kept = target.block, kept_units(choice)
        assert block.output is not None
        full = fan_in(target.module.get_submodule(block.output))
        width = len(kept) * (full // choice["of"])
        resize(target.module, block, width)
        if block.core is not None:
            core: Any = target.module.get_submodule(block.core)
            # For a family whose units are not all of one kind, as the original counts them.
            before = getattr(core, "kept_units", None) or range(choice["of"])
            core.kept_units = [before[unit] for unit in kept]
            for name in block.counts:
                setattr(core, name, len(kept))
            for name in block.widths:
                setattr(core, name, width)


def kept_units(choice: Mapping[str, Any]) -> list[int]:
    """The units that a choice of units keeps: a list, or the hexadecimal form of a bit mask."""
    kept = choice["kept"]
    if isinstance(kept, str):
        return [i for i, bit in enumerate(reversed(f"{int(kept, 16):b}")) if bit == "1"]
    return list(kept)


def apply_choices(
    model: PreTrainedModel,
    sites: Mapping[str, Mapping[str, Mapping[str, Any]]],
    layers: Sequence[int],
    layout: Layout,
    halves: Mapping[str, type[Modeling]],
    gone: Collection[str] = (),
) -> None:
    """Install a recipe's choices in a model; new tensors are left for the caller to fill.

    Args:
        model: with as many layers as ``layers`` has.
        sites: those of a recipe's JSON: for each site the choices by their type.
        layers: the numbers that the layers have in the original model, which sites are named by.
        layout: of the family.
        halves: the class of each type of choice.
        gone: the sites whose block is removed already.
    """
    stack: Any = model.base_model.get_submodule(layout.layers)
    below = dict.fromkeys(layout.blocks, 0)
    for number, own in enumerate(layers):
        layer: Any = stack[number]
        names = {kind: f"layer{own:02d}.{kind}" for kind in layout.blocks}
        chosen = {kind: sites.get(name, {}) for kind, name in names.items()}
        lacking = {kind for kind, name in names.items() if name in gone}
        removed = lacking.union(
            kind
            for kind, choices in chosen.items()
            if any(halves[type].removes(choice) for type, choice in choices.items())
        )
        removable = {kind for kind, block in layout.blocks.items() if block.remove is not None}
        if removed == removable and layout.empty_layer is not None:
            stack[number] = layout.empty_layer()
            continue
        for kind, block in layout.blocks.items():
            if kind in lacking:
                continue
            if kind in removed:
                assert block.remove is not None
                block.remove(layer)
                continue
            for type, choice in sorted(chosen[kind].items()):
                halves[type].install(Target(model, layer, block), choice)
        if layout.finish is not None:
            layout.finish(layer, Position(own, frozenset(removed), dict(below)), model.config)
        below = {kind: count + (kind not in removed) for kind, count in below.items()}
    for kind, block in layout.outside.items():
        choices = sites.get(kind, {})
        if kind in gone:
            continue
        if any(halves[type].removes(choice) for type, choice in choices.items()):
            assert block.remove is not None
            block.remove(model.base_model)
            continue
        for type, choice in sorted(choices.items()):
            halves[type].install(Target(model, model.base_model, block), choice)


def fan_in(projection: Any) -> int:
    """How many inputs a projection has."""
    return int(
        projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.in_features
    )


def resize(module: nn.Module, block: Block, width: int) -> None:
    """Replace a block's projections by empty ones for units of this joint width."""
    assert block.output is not None
    if fan_in(module.get_submodule(block.output)) == width:
        return
    for name in (*block.inputs, block.output):
        try:
            old: Any = module.get_submodule(name)
        except AttributeError:  # a projection that only some configs have
            continue
        new: nn.Module
        if isinstance(old, Conv1D):  # its weight is (in, out)
            sizes = (old.nf, width) if name == block.output else (width * block.parts, old.nx)
            new = Conv1D(*sizes)
        elif name == block.output:
            new = nn.Linear(width, old.out_features, bias=old.bias is not None)
        else:
            new = nn.Linear(old.in_features, width * block.parts, bias=old.bias is not None)
        replace_module(module, name, new)


def replace_module(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module in the place of one that lies inside."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
