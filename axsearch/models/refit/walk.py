"""One model on calibration examples, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.modeling import Block
from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
from axsearch.models.partial import Reached, hidden_of, run_until_reached, starting
from axsearch.models.refit.sample import Sample, tokens_of
from axsearch.models.refit.sums import Sums


class SeenBlock(NamedTuple):
    """A block of the base on the sample.

    Attributes:
        received: what its input projections receive, (tokens, hidden) a batch; empty where that is
            the output of the layer below.
        stream: the residual stream after it, (tokens, hidden) a batch.
        readers: those of its input projections that receive nothing else.
    """

    received: tuple[Tensor, ...]
    stream: tuple[Tensor, ...]
    readers: tuple[str, ...]


class SeenLayer(NamedTuple):
    """A layer of the base on the sample: its outputs, batch by batch, and its blocks by kind."""

    outputs: tuple[Any, ...]
    blocks: Mapping[str, SeenBlock]


class Walk:
    """One model on the sample, layer by layer.

    The outputs of a fitted block's input projections are recorded, so that the next passes through
    its layer need not compute them again.

    Args:
        base: whose layers the model has.
        model: the base or a smaller model of it.
        sample: calibration examples.
        room: bytes for the recorded outputs of one layer.

    Attributes:
        outputs: those of a layer by its number, kept until the next one was run.
    """

    def __init__(self, base: Base, model: PreTrainedModel, sample: Sample, room: int = 0) -> None:
        self.outputs: dict[int, tuple[Any, ...]] = {}
        self._room = room
        self._recorded: dict[tuple[int, str], list[Tensor]] = {}
        self._base, self._blocks = base, base.family.layout.blocks
        self._model, self._sample = model, sample
        self._layers = base.layers(model)

    def module(self, number: int, name: str) -> Any:
        """A module of a layer."""
        return self._layers[number].get_submodule(name)

    def put(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Put new tensors into a layer; its modules are the model's own, its tensors may not."""
        for name, tensor in tensors.items():
            module, _, own = name.rpartition(".")
            parameter = nn.Parameter(tensor, requires_grad=False)
            setattr(self.module(number, module), own, parameter)

    def run(self, number: int, given: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """The outputs of a layer, batch by batch, from those of the layer below."""
        outputs: list[Any] = []

        def end(_: nn.Module, inputs: Any, output: Any) -> None:
            outputs.append(output)
            raise Reached

        hook = self._layers[number].register_forward_hook(end)
        try:
            with self._replayed(number):
                for place, batch in enumerate(self._sample.batches):
                    own = given[place] if given else None
                    with starting(self._base, self._model, number, own):
                        run_until_reached(self._model, batch)
        finally:
            hook.remove()
        return tuple(outputs)

    def seen(self, number: int, given: tuple[Any, ...] | None) -> SeenLayer:
        """The outputs of a layer, and the inputs and streams of its blocks."""
        layer, watches = self._layers[number], {}
        below = tuple(map(hidden_of, given or ()))
        with ExitStack() as stack:
            for kind, block in self._blocks.items():
                if SiteId(number, kind) in self._base.sites and block.output is not None:
                    watch = watches[kind] = _Watch(self._sample, below)
                    stack.enter_context(watch.on(layer, block))
            outputs = self.run(number, given)
        return SeenLayer(outputs, {kind: watch.block for kind, watch in watches.items()})

    def sums_received(
        self,
        number: int,
        given: tuple[Any, ...] | None,
        block: Block,
        wanted: Iterable[Tensor],
        site: SiteId,
    ) -> Sums:
        """The sums of a fit of a block's inputs to ``wanted``, those that it has in the base."""
        sums, feed = Sums(), self._feed(wanted, site)

        def see(_: nn.Module, inputs: Any) -> None:
            target, mask, weights = next(feed)
            own = tokens_of(inputs[0], mask)
            sums.add(own, target - own, weights)
            raise Reached

        name = _present(self._layers[number], block)[0]
        hook = self.module(number, name).register_forward_pre_hook(see)
        try:
            self.run(number, given)
        finally:
            hook.remove()
        return sums

    def sums(
        self,
        number: int,
        given: tuple[Any, ...] | None,
        block: Block,
        streams: Iterable[Tensor],
        site: SiteId,
    ) -> Sums:
        """The sums of a block's fit to ``streams``, those of the base after it."""
        sums, feed = Sums(), self._feed(streams, site)

        def see(residual: Tensor, inputs: Tensor, output: Tensor) -> None:
            stream, mask, weights = next(feed)
            errors = stream - tokens_of(residual + output, mask)
            sums.add(tokens_of(inputs, mask), errors, weights)
            raise Reached

        with _watched(self._layers[number], block, see), self._recording(number, block):
            self.run(number, given)
        return sums

    @contextmanager
    def _recording(self, number: int, block: Block) -> Iterator[None]:
        """While open, outputs of a block's input projections are recorded, if there is room."""
        names = _present(self._layers[number], block)
        modules = {name: self.module(number, name) for name in names}
        self._recorded = {key: outs for key, outs in self._recorded.items() if key[0] == number}
        places = sum(mask.numel() for mask in self._sample.masks)
        wide = sum(module.weight.nbytes // self._hidden for module in modules.values())
        there = sum(one.nbytes for outs in self._recorded.values() for one in outs)
        if places * wide + there > self._room:
            yield
            return
        with ExitStack() as stack:
            for name, module in modules.items():
                outs = self._recorded[number, name] = []
                hook = module.register_forward_hook(lambda _, __, out, to=outs: to.append(out))
                stack.callback(hook.remove)
            yield

    @contextmanager
    def _replayed(self, number: int) -> Iterator[None]:
        """While open, input projections of a layer return their recorded outputs, call by call."""
        known = {
            self.module(number, name): iter(tuple(outs))
            for (own, name), outs in self._recorded.items()
            if own == number and outs
        }
        for module, outs in known.items():
            module.forward = lambda _, outs=outs: next(outs)
        try:
            yield
        finally:
            for module in known:
                del module.forward

    @property
    def _hidden(self) -> int:
        return int(self._base.model.config.hidden_size)

    def _feed(
        self, wanted: Iterable[Tensor], site: SiteId
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Targets, masks and weights of tokens, batch by batch."""
        return iter(zip(wanted, self._sample.masks, self._sample.weights[site], strict=True))


class _Watch:
    """Collects the inputs of a block of the base and the stream after it, batch by batch.

    ``below`` are the outputs of the layer below, of which no copies are kept.
    """

    def __init__(self, sample: Sample, below: Sequence[Tensor]) -> None:
        self._sample, self._below = sample, below
        self._received: list[Tensor] = []
        self._streams: list[Tensor] = []
        self._readers: tuple[str, ...] = ()
        self._calls: list[tuple[str, Tensor]] = []

    @property
    def block(self) -> SeenBlock:
        """What was collected."""
        return SeenBlock(tuple(self._received), tuple(self._streams), self._readers)

    @contextmanager
    def on(self, layer: nn.Module, block: Block) -> Iterator[None]:
        """While open, every pass through the layer is a batch."""

        def called(name: str, _: nn.Module, inputs: Any) -> None:
            self._calls.append((name, inputs[0]))

        def see(residual: Tensor, _: Tensor, output: Tensor) -> None:
            place, first = len(self._streams), self._calls[0][1]
            mask = self._sample.masks[place]
            self._streams.append(tokens_of(residual + output, mask))
            if not self._below or first is not self._below[place]:
                self._received.append(tokens_of(first, mask))
            # DeBERTa's query and key projections may project embeddings of positions, too.
            other = {name for name, received in self._calls if received is not first}
            names = dict.fromkeys(name for name, _ in self._calls)
            self._readers = tuple(name for name in names if name not in other)
            self._calls.clear()

        with ExitStack() as stack:
            for name in _present(layer, block):
                hook = layer.get_submodule(name).register_forward_pre_hook(partial(called, name))
                stack.callback(hook.remove)
            stack.enter_context(_watched(layer, block, see))
            yield


def _present(layer: nn.Module, block: Block) -> list[str]:
    """The input projections that a layer has."""
    there = dict(layer.named_modules())
    return [name for name in block.inputs if name in there]


@contextmanager
def _watched(
    layer: nn.Module, block: Block, see: Callable[[Tensor, Tensor, Tensor], None]
) -> Iterator[None]:
    """While open, ``see`` receives what each pass through a block computes.

    The residual stream before it, the inputs of its output projection, and what that returns.
    The stream is what goes into the norm of a pre-norm block, and into the first projection of a
    post-norm one.
    """
    there = dict(layer.named_modules())
    names = block.inputs if block.norm is None else (block.norm,)
    first = next(there[name] for name in names if name in there)
    residual: list[Tensor] = []

    def start(_: nn.Module, __: Any) -> None:
        residual.clear()

    def before(_: nn.Module, inputs: Any) -> None:
        if not residual:  # DeBERTa may project embeddings of positions afterwards
            residual.append(inputs[0])

    def after(_: nn.Module, inputs: Any, output: Tensor) -> None:
        see(residual[0], inputs[0], output)

    assert block.output is not None
    hooks = (
        layer.register_forward_pre_hook(start),
        first.register_forward_pre_hook(before),
        there[block.output].register_forward_hook(after),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
