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

from axsearch.errors import UsageError
from axsearch.graphs.onnx import ConversionError

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

    Attributes:
        size_bytes: of the files that hold the model in this precision; None where it is not known.
    """

    size_bytes: int | None = None

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

    def layer_times(self, batches: Sequence[Inputs]) -> NDArray[np.float64]:
        """Time one pass, layer by layer, for the latency table.

        It is not asked of a runtime that converts models, whose tools fuse what belongs to several
        layers; there whole models are timed.

        Times of layers must add up to that of the pass, what is outside of layers left out: the
        time from the start of each layer to its end.

        Args:
            batches: tensors on the CPU; bringing them to the device is not timed.

        Returns:
            Seconds, (layers + 1,): each layer of the model, in its order, over all batches; one
            that a pass runs several times, as ALBERT's, with all of its runs together. Last, the
            whole pass.
        """
        raise NotImplementedError

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


@contextmanager
def of_export(model: PreTrainedModel | Path, path: Path) -> Iterator[None]:
    """While open, a file that cannot be opened is the fault of the export that it is of, if any.

    Raises UsageError in place of ConversionError, and where the file of an export is missing.
    """
    if isinstance(model, Path) and not path.is_file():
        raise UsageError(f"{path} is missing; export the model again.")
    try:
        yield
    except ConversionError as error:
        if not isinstance(model, Path):
            raise
        raise UsageError(f"{str(error).rstrip('.')}; export the model again.") from None


class Runtime(ABC):
    """A library that runs models where they are served; one file in this folder is one runtime.

    A scenario names it, and what is measured in that scenario is measured through it. It is called
    at these times:

    - *Before the first trial of a search*, where the machine has no latency table for the scenario
      yet: :meth:`open` with the base and with a few dozen smaller models that stay open together,
      then :meth:`Session.layer_times` with one after the other, round by round. A runtime that
      converts models has them opened one by one, each beside the base, and timed with
      :meth:`Session.run`.
    - *In a trial*, nothing, where the latency table knows the recipe. Where it does not, the
      trial's model is opened beside the base and both are timed in turn with
      :meth:`Session.run`, before the model's accuracy is evaluated. That is evaluated in PyTorch,
      in float32.
    - *At the end of a search*, and by ``axsearch remeasure``: the same with the base alone, and
      with each model of the front. In any other runtime or precision than PyTorch's float32 the
      base, in each precision, and the models of the front are then evaluated with it, too.
    - *In an export*, nothing, or to see what a model in this precision answers. A folder in
      ``export_format`` is what a user serves with this runtime, so :meth:`open` takes one in place
      of a model.
    - *In* ``axsearch verify``, nothing: it checks a folder in a process without axsearch.

    Attributes:
        name: what a scenario calls it.
        title: what people call it.
        precisions: those in which it can run a model, float32 first if it is one.
        export_format: the export format whose folders it opens, a name of ``axsearch export
            --format``.
        devices: those that it runs on.
        converts: whether it runs a model in another form, so that opening one takes seconds. Then
            :meth:`open` takes ``examples`` and ``lasting``.
        kernels: whether it runs axsearch's own kernels, without which top-k saves no time.
        quantizes_apart: whether int8 is made in a process of its own, while the next model can be
            converted here.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    precisions: ClassVar[tuple[str, ...]]
    export_format: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")
    converts: ClassVar[bool] = False
    kernels: ClassVar[bool] = True
    quantizes_apart: ClassVar[bool] = False

    def missing(self, precision: str) -> str | None:
        """Which packages are not installed and how to get them; None if all are there."""
        return None

    @abstractmethod
    def open(
        self,
        model: PreTrainedModel | Path,
        *,
        precision: str,
        threads: int | None,
        device: str,
        **more: Any,
    ) -> Session:
        """Open a model, which is left as it is and where it is.

        Args:
            model: in evaluation mode, on any device; or the folder of an export in
                ``export_format``, none of whose code is run.
            precision: one of ``precisions``.
            threads: how many the session may use on a CPU; as many as the runtime takes by itself
                if None.
            device: cpu, cuda or mps.
            **more: only where :attr:`converts`: ``examples``, the inputs with which int8 is
                calibrated, each of one row, random ones if there are none; and ``lasting``, whether
                what the model is converted to is worth keeping for later processes.

        Raises:
            UsageError: a folder that is not such an export, or was changed.
        """
