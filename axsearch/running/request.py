"""SearchRequest: all arguments of a search, as plain data. Needs no torch.

It joins the arguments that the layers below declare (the model and data, the settings, the limits,
the load that latency is measured for) and adds those of this layer: the study and the workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from axsearch.options import Option, like
from axsearch.study.settings import Limits, Load, SearchSettings
from axsearch.system.devices import Device
from axsearch.tasks.spec import TaskSpec
from axsearch.training.request import CANDIDATES

Storage = Annotated[
    str, Option("Database URL, such as sqlite:///studies.db", variable="AXSEARCH_STORAGE")
]
StudyName = Annotated[str, Option("Name of the study")]
ModelHere = Annotated[
    str | None, Option("Where the model is on this machine", omitted="where the search found it")
]
DataHere = Annotated[
    str | None, Option("Where the data are on this machine", omitted="where the search found them")
]
RankedRuntime = Annotated[
    str | None,
    Option("Runtime that the models were ranked for, by axsearch remeasure", omitted="the study's"),
]
RankedPrecision = Annotated[
    str | None,
    Option(
        "Precision that they were ranked for", omitted="float32 with --runtime, else the study's"
    ),
]


@dataclass(frozen=True)
class WorkerPool:
    """The number of workers, and where they run."""

    workers: Annotated[int, Option("Number of worker processes; they share the processors")] = 1
    engine: Annotated[str, Option("Where workers run: local or ray")] = "local"
    address: Annotated[
        str | None,
        Option("Address of a Ray cluster", omitted="one is started here"),
    ] = None
    cpus: Annotated[
        int | None,
        Option(
            "Number of processors, and so of threads, of each worker",
            omitted="an equal share of this machine's",
            flag="--cpus-per-worker",
        ),
    ] = None
    gpus: Annotated[
        float,
        Option("GPUs that Ray reserves for a worker", minimum=0, flag="--gpus-per-worker"),
    ] = 0.0


HERE = WorkerPool()
"""One worker, in this process."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """All arguments of a search. :func:`axsearch.running.resolving.resolve` checks them."""

    spec: TaskSpec
    storage: Storage = field(repr=False)  # it may hold a password
    study: StudyName
    trials: Annotated[
        int, Option("Total number of finished trials in the study, pruned ones included")
    ]
    settings: SearchSettings = field(default_factory=SearchSettings)
    limits: Limits = field(default_factory=Limits)
    load: Load = field(default_factory=Load)
    device: Device = "cpu"
    place: WorkerPool = HERE
    recover: Annotated[
        bool,
        Option(
            "Train models further once all trials are done, with the base as their teacher, as "
            f"axsearch recover does with --candidates {CANDIDATES}"
        ),
    ] = False
    force: Annotated[
        bool, Option("Search even if the base is no better than a constant answer")
    ] = False


@dataclass(frozen=True)
class WorkerRequest:
    """The study that workers are to run trials of.

    ``model``, ``data`` and ``device`` are given where they differ from the study's.
    """

    storage: Storage
    study: StudyName
    model: ModelHere = None
    data: DataHere = None
    device: Annotated[str | None, like(SearchRequest, "device", omitted="the study's")] = None

    def __repr__(self) -> str:
        return f"WorkerRequest(study={self.study!r})"  # the storage may hold a password
