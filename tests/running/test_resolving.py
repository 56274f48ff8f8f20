"""What is refused of a request, and what is decided, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axsearch.cli.options import flags, in_options
from axsearch.cli.search import search as command
from axsearch.errors import UsageError
from axsearch.options import gather
from axsearch.running.request import SearchRequest, WorkerPool
from axsearch.running.resolving import resolve
from axsearch.samplers import samplers

Ask = Callable[..., SearchRequest]


@pytest.fixture
def ask(base_dir: Path, tmp_path: Path) -> Ask:
    """A request with everything given but the data; keywords replace it."""
    given = {
        "model": str(base_dir),
        "data": "/no/such/data",
        "storage": f"sqlite:///{tmp_path / 'studies.db'}",
        "study": "tiny",
        "trials": 6,
    }
    return lambda **changed: gather(SearchRequest, {**given, **changed})


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("expensive work was started")

    for name in ("load_model", "load_tokenizer", "read_data"):
        monkeypatch.setattr(f"axsearch.tasks.task.{name}", never)


@pytest.mark.parametrize(
    ("change", "said", "on_the_command_line"),
    [
        ({"trials": 0}, "`trials` must be at least 1, not 0", "--trials must be"),
        ({"batch_size": 0}, "`batch_size` must be", "--batch-size must be"),
        ({"sequence_length": 0}, "`sequence_length` must be", "--sequence-length must be"),
        (
            {"sequence_length": 65},
            "`sequence_length=65` is above the model's 64",
            "--sequence-length 65 is above",
        ),
        (
            {"max_length": 65},
            "`max_length=65` is above the 64 positions",
            "fine-tune it with --max-length 65, which gives it more, or give at most 64",
        ),
        (
            {"max_length": 49},
            "`max_length=49` is above the 48 tokens that the tokenizer of",
            "fine-tune the model with --max-length 49, or give at most 48",
        ),
        ({"max_length": 7}, "`max_length` must be at least 8, not 7", "--max-length must be"),
        ({"threads": 0}, "`threads` must be", "--threads must be"),
        ({"search_examples": 0}, "`search_examples` must be", "--search-examples must be"),
        ({"seed": -1}, "`seed` must be from 0 to 4294967295", "--seed must be"),
        ({"sampler": "annealing"}, "'annealing' is not in this version", "'annealing'"),
        (
            {"sampler": "axformer", "approximations": ("heads",)},
            "`approximations=head_mask,ffn_mask,topk_hard` only, not heads",
            "--approximations head_mask,ffn_mask,topk_hard only",
        ),
        ({"sampler": "axformer", "staged": True}, "`staged=True` cannot", "--staged cannot"),
        (
            {"sampler": "axformer", "dtype": "bfloat16"},
            '`dtype="bfloat16"` cannot go with the sampler axformer',
            "--dtype bfloat16 cannot",
        ),
        ({"dtype": "float16"}, "`dtype` must be one of auto, float32", "--dtype must be"),
        ({"sampler": "axformer", "epsilon": -0.1}, "`epsilon` must be", "--epsilon must be"),
        (
            {"sampler": "axformer", "epsilon": float("nan")},
            "`epsilon` must be a number from 0 up",
            "--epsilon must be",
        ),
        ({"epsilon": 0.1}, "`epsilon` is for the sampler axformer", "--epsilon is for"),
        ({"compensation": "magic"}, "`compensation` must be", "--compensation must be"),
        ({"approximations": ("magic",)}, "'magic' is not known", "'magic'"),
        ({"max_size_ratio": 0.0}, "`max_size_ratio` must be", "--max-size-ratio must be"),
        ({"max_size_ratio": float("inf")}, "`max_size_ratio` must be", "--max-size-ratio must"),
        ({"max_drop": float("nan")}, "`max_drop` must be", "--max-drop must be"),
        ({"max_latency_ratio": 0.0}, "`max_latency_ratio` must be", "--max-latency-ratio must"),
        ({"max_latency_ratio": float("nan")}, "`max_latency_ratio`", "--max-latency-ratio must"),
        ({"storage": "sqlite://"}, "in memory", "in memory"),
        ({"storage": "nonsense"}, "database URL", "database URL"),
        ({"study": "a\nb"}, "`study` must be a name of printable", "--study must be a name"),
        ({"device": "tpu"}, "'tpu' is not available", "'tpu'"),
        ({"objectives": ("accuracy", "speed")}, "speed", "--objectives takes accuracy"),
        ({"objectives": ("latency", "size")}, "`objectives` takes", "--objectives takes"),
        ({"model": "/no/such/model"}, "/no/such/model", "/no/such/model"),
        ({"metric": "bleu"}, "'bleu' is not known", "'bleu'"),
        ({"task": "glue/none"}, "'glue/none' is not supported", "'glue/none'"),
        ({"place": WorkerPool(0)}, "`workers` must be", "--workers must be"),
        ({"place": WorkerPool(cpus=0)}, "`cpus` must be", "--cpus-per-worker must be"),
        (
            {"place": WorkerPool(gpus=1)},
            '`address` and `gpus` are for `engine="ray"`',
            "--address and --gpus-per-worker are for --engine ray",
        ),
    ],
)
def test_wrong_use_is_refused(
    ask: Ask, change: dict[str, Any], said: str, on_the_command_line: str
) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(ask(**change))
    assert said in str(refused.value)
    spoken = in_options(str(refused.value), flags(command))
    assert on_the_command_line in spoken
    assert "`" not in spoken


def test_what_depends_on_the_sampler_is_decided(ask: Ask) -> None:
    usual = resolve(ask()).request.settings
    assert (usual.staged, usual.compensation) == (True, None)
    exact = resolve(ask(sampler="axformer", epsilon=0.1))
    assert exact.request.settings.staged is False
    assert exact.sampler is samplers()["axformer"]
    given = resolve(ask(staged=False, compensation="bias")).request.settings
    assert (given.staged, given.compensation) == (False, "bias")


def test_latency_is_measured_for_an_objective_or_a_limit(ask: Ask) -> None:
    assert resolve(ask()).timed
    assert not resolve(ask(objectives=("accuracy", "size"))).timed
    assert resolve(ask(objectives=("accuracy", "size"), max_latency_ratio=0.5)).timed


def test_a_request_does_not_show_the_password_of_its_database(ask: Ask) -> None:
    assert "secret" not in repr(ask(storage="postgresql://me:secret@db/x"))
