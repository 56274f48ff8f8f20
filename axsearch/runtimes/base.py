"""What a runtime is: where models are timed, and how their time is taken."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

Inputs = Mapping[str, Tensor]
"""A model's inputs by name, each (rows, ...)."""


class Session(ABC):
    """A model that a runtime has opened, in one precision, on one device, with its threads.

    It is used in this order, by whoever times it::

        with runtime.open(model, precision="float32", threads=2, device="cpu") as session:
            ready = [session.prepare(batch) for batch in batches]  # not timed
            with session.quiet():
                for batch in ready:
                    session.run(batch)  # a pass: all batches, then settle
                session.settle()

    A model is timed in turn with the base, so several sessions are open at once, and every one of
    them is quiet while any is timed. Sessions are closed in the opposite order of opening.
    """

    def prepare(self, batch: Inputs) -> Inputs:
        """The batch as :meth:`run` takes it, on the session's device. It is called before timing.

        Args:
            batch: tensors on the CPU.
        """
        return batch

    @abstractmethod
    def run(self, batch: Inputs) -> Mapping[str, Any]:
        """Run the model on a prepared batch; this is what is timed. No gradients are kept.

        It may return before the device has finished.

        Returns:
            The model's outputs as tensors by the names that transformers gives them, such as
            ``logits``, (rows, labels).
        """

    def settle(self) -> None:
        """Wait until the device has done all that :meth:`run` was called for; a CPU has."""
        return

    @abstractmethod
    def layer_times(self, batches: Sequence[Inputs]) -> NDArray[np.float64]:
        """Time one pass, layer by layer, for the latency table.

        Times of layers must add up to that of the pass, what is outside of layers left out: of a
        model that is run layer by layer, the time from the start of each layer to its end; of one
        that is run as a graph, for example, the sum of the times of each layer's nodes in a
        profile.

        Args:
            batches: tensors on the CPU; bringing them to the device is not timed.

        Returns:
            Seconds, (layers + 1,): each layer of the model, in its order, over all batches; one
            that a pass runs several times, as ALBERT's, with all of its runs together. Last, the
            whole pass.
        """

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While open, the process is as this session is to be timed; afterwards as it was before.

        No garbage is collected. A runtime whose number of threads is the process's sets it here.
        """
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()

    def close(self) -> None:
        """Let go of the model and of what it takes of the device. Nothing is called afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Runtime(ABC):
    """A library that runs models where they are served; one file in this folder is one runtime.

    A scenario names it, and what is measured in that scenario is measured through it. Accuracy is
    not: it is evaluated in PyTorch, whatever the runtime. It is called at these times:

    - *Before the first trial of a search*, where the machine has no latency table for the scenario
      yet: :meth:`open` with the base and with a few dozen smaller models that stay open together,
      then :meth:`Session.layer_times` with one after the other, round by round.
    - *In a trial*, nothing, where the latency table knows the recipe. Where it does not, the
      trial's model is opened beside the base and both are timed in turn with
      :meth:`Session.run`, before the model's accuracy is evaluated.
    - *At the end of a search*, and by ``axsearch remeasure``: the same with the base alone, and
      with each model of the front.
    - *In an export*, nothing. A folder in ``export_format`` is what a user serves with this
      runtime, so :meth:`open` takes one in place of a model.
    - *In* ``axsearch verify``, nothing: it checks a folder in a process without axsearch.

    Attributes:
        name: what a scenario calls it.
        precisions: those in which it can run a model.
        export_format: the export format whose folders it opens, a name of ``axsearch export
            --format``.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    export_format: ClassVar[str]

    @abstractmethod
    def open(
        self,
        model: PreTrainedModel | Path,
        *,
        precision: str,
        threads: int | None,
        device: str,
    ) -> Session:
        """Open a model, which is left as it is and where it is.

        Args:
            model: in evaluation mode, on any device; or the folder of an export in
                ``export_format``, none of whose code is run.
            precision: one of ``precisions``.
            threads: how many the session may use on a CPU; as many as the runtime takes by itself
                if None.
            device: cpu, cuda or mps.

        Raises:
            UsageError: a folder that is not such an export, or was changed.
        """
