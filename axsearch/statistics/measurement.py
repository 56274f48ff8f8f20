"""The numbers of one model, as `--json` prints them and the store keeps them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Measurement(BaseModel):
    """The numbers of one recipe's model; ratios are to the base, below 1 is better.

    Attributes:
        trial: number of the study's trial; None for a model outside a study.
        recipe: the recipe's JSON.
        accuracy: the metric on the search split, with the ends of its 95 % interval.
        holdout_accuracy: the metric on the holdout split, None until it was opened.
        accuracy_tried: that which the trial had, of a model that was polished later: a trial's
            objective, so that this and not ``accuracy`` is compared with trials that were not; it
            is not printed.
        latency_ms: ``latency_ratio`` times the base's time for the scenario's batches.
        latency_ratio: the time over the base's: the median of paired ratios if it was measured,
            otherwise predicted by the latency table.
        latency_measured: whether a real model was timed; if not, the time is predicted or None.
        latency_predicted: the predicted ratio of a model that was timed later. A trial's objective
            is the ratio predicted when it ran, so this and not ``latency_ratio`` is compared with
            other trials; it is not printed.
        size_bytes: bytes of the exported safetensors file; in a study of int8 those of the weights
            in int8.
        parameters: how many numbers the model holds.
        recovered_from: the trial whose model was trained further to this one; None of a model as it
            was cut.
        choices: units kept and k of every layer, ``{"layer00": {"heads": 10, …}}``; a layer that
            was removed keeps 0 units of each block. Sites outside of layers have their own name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    trial: int | None = None
    recipe: dict[str, Any]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_tried: float | None = Field(default=None, exclude=True)
    holdout_accuracy: float | None = None
    latency_ms: PositiveFloat | None = None
    latency_ratio: PositiveFloat | None = None
    latency_measured: bool
    latency_predicted: PositiveFloat | None = Field(default=None, exclude=True)
    size_bytes: PositiveInt
    size_ratio: PositiveFloat
    parameters: PositiveInt
    recovered_from: int | None = None
    choices: dict[str, dict[str, int | None]]

    @model_validator(mode="after")
    def _consistent(self) -> Measurement:
        if (self.latency_ms is None) != (self.latency_ratio is None):
            raise ValueError("latency_ms and latency_ratio go together")
        if not self.choices:
            raise ValueError("choices names no layer")
        for layer, kept in self.choices.items():
            if not kept or (_is_layer(layer) and all(v is None for v in kept.values())):
                raise ValueError(f"choices does not say what {layer!r} keeps")
        return self

    @property
    def label(self) -> str:
        """Its trial, and the one that it was recovered from, for a table."""
        if self.recovered_from is None:
            return str(self.trial)
        return f"{self.trial} (from {self.recovered_from})"

    @property
    def objective_latency(self) -> float | None:
        """The latency ratio that the study optimises."""
        return self.latency_ratio if self.latency_predicted is None else self.latency_predicted


def _is_layer(place: str) -> bool:
    # A layer has blocks, of which a number of units is kept; what lies outside of layers need not.
    return place.rpartition(".")[2].startswith("layer")
