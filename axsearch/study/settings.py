"""The settings of a search beside its model and data: how it runs, its limits, the load it times.

Plain data without torch, as the user sets it; None leaves the decision to the search.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated

from axsearch.errors import UsageError
from axsearch.options import Option

AUTO = "auto"
"""The precision that is decided by what the base keeps of its accuracy."""

DTYPES = ("auto", "float32", "bfloat16")
"""The precisions in which accuracy may be evaluated."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search is run."""

    approximations: Annotated[
        tuple[str, ...] | None,
        Option(
            "Approximations to try: heads, ffn, topk, one_token, attention_block, ffn_block, "
            "layer, ffn_width, ffn_topk, vocabulary; with the axformer sampler head_mask, "
            "ffn_mask, topk_hard",
            omitted="heads, ffn, topk and one_token; with --portable layer and ffn_width; with "
            "the axformer sampler all of its own",
        ),
    ] = None
    portable: Annotated[
        bool,
        Option(
            "Try only models that transformers' own classes hold, exported as plain checkpoints "
            "that open without trust_remote_code, in other servers too"
        ),
    ] = False
    freeze: Annotated[
        tuple[str, ...],
        Option("Layers and blocks to leave as they are, such as layer00 or layer05.ffn"),
    ] = ()
    compensation: Annotated[
        str | None,
        Option(
            "How the remaining weights make up for the removed ones, at no cost in latency: none, "
            "bias, least_squares or sequential",
            omitted="sequential; least_squares where layers share their weights (ALBERT), none "
            "with axformer; a resumed study keeps its own",
        ),
    ] = None
    sampler: Annotated[
        str, Option("Sampler: auto, axformer, hat, nsga2, nsga3, tpe, gp or random")
    ] = "auto"
    epsilon: Annotated[
        float | None,
        Option(
            "For the axformer sampler: keep every change that leaves the loss at most "
            "(1 + epsilon) times the base's",
            omitted="a change must lower the loss",
        ),
    ] = None
    staged: Annotated[
        bool | None,
        Option(
            "Prune a recipe if the first 1/8 or 1/2 of the examples show, with confidence, that "
            "it would add next to nothing to the front",
            omitted="on, but off with the axformer sampler",
        ),
    ] = None
    objectives: Annotated[
        tuple[str, ...],
        Option("Objectives to optimise: accuracy and any of latency and size"),
    ] = ("accuracy", "latency", "size")
    dtype: Annotated[
        str,
        Option(
            "Precision in which accuracy is evaluated: float32, bfloat16 (answers that it could "
            "change are computed again in float32) or auto (bfloat16 where it is faster; a resumed "
            "study keeps its precision)"
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a model may lose or cost; None where there is no limit."""

    max_drop: Annotated[float | None, Option("Largest loss of accuracy allowed, such as 0.01")] = (
        None
    )
    max_latency_ratio: Annotated[
        float | None, Option("Largest latency allowed, as a share of the base's, such as 0.5")
    ] = None
    max_size_ratio: Annotated[
        float | None, Option("Largest size allowed, as a share of the base's bytes, such as 0.7")
    ] = None

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are, by name."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def check(self) -> None:
        """Raises UsageError for a limit that is no number, or a share that is not above 0."""
        for name, limit in self.given.items():
            if name == "max_drop" and not math.isfinite(limit):
                raise UsageError(f"`{name}` must be a number such as 0.01, not {limit}.")
            if name != "max_drop" and not 0 < limit < math.inf:
                raise UsageError(f"`{name}` must be a number above 0, such as 0.5, not {limit}.")


@dataclass(frozen=True, kw_only=True)
class Load:
    """The scenario in which latency is measured, as the user sets it, without the device."""

    batch_size: Annotated[int, Option("Number of examples in a batch when latency is measured")] = (
        32
    )
    sequence_length: Annotated[
        int | None,
        Option(
            "Number of tokens in an example when latency is measured",
            omitted="the examples' own lengths",
        ),
    ] = None
    threads: Annotated[
        int | None, Option("Number of threads when latency is measured", omitted="all")
    ] = None
    runtime: Annotated[
        str,
        Option("Runtime in which the model will be served: torch, onnxruntime or openvino"),
    ] = "torch"
    precision: Annotated[
        str,
        Option(
            "Precision in which the model will be served: float32, bfloat16 (torch, openvino), "
            "int8 (onnxruntime, openvino) or auto, the fastest in which the base keeps its accuracy"
        ),
    ] = "float32"
