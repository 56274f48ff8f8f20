"""Made-up studies, as plain as the figures see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from axsearch.approximations.ffn.choice import FfnNeurons
from axsearch.approximations.heads.choice import Heads
from axsearch.approximations.site import ATTENTION, FFN
from axsearch.approximations.topk.choice import TopKAttention
from axsearch.reporting.figures.data import Point, StudyData, TrialTime
from axsearch.space.latency_table import LatencyTable
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate

HEAD_COUNT, NEURON_COUNT = 12, 1536
LEVELS = {Heads.name: (12, 9, 6, 3, 0), TopKAttention.name: (None, 64, 32, 16)}
EXACT_LEVELS: dict[str, int | None] = {
    Heads.name: HEAD_COUNT,
    FfnNeurons.name: NEURON_COUNT,
    TopKAttention.name: None,
}


def measurement(trial: int, **changed: Any) -> Measurement:
    """A measurement with the base's costs; ``changed`` are the fields that differ."""
    given: dict[str, Any] = {
        "trial": trial,
        "recipe": {"version": 1, "sites": {}},
        "accuracy": 0.9,
        "accuracy_low": 0.88,
        "accuracy_high": 0.91,
        "latency_ms": 10.0,
        "latency_ratio": 1.0,
        "latency_measured": True,
        "size_bytes": 100,
        "size_ratio": 1.0,
        "parameters": 25,
        "choices": {"layer00": {Heads.name: 4, TopKAttention.name: None, FfnNeurons.name: 64}},
    }
    return Measurement(**{**given, **changed})


def choices(keep: float, layers: int, rng: np.random.Generator) -> dict[str, dict[str, int | None]]:
    """About this share of each layer; the last layers go whole where little is kept."""
    found: dict[str, dict[str, int | None]] = {}
    for layer in range(layers):
        own = float(np.clip(keep + rng.normal(0, 0.15), 0.1, 1))
        gone = keep < 0.45 and layer >= layers - 2
        found[f"layer{layer:02d}"] = {
            Heads.name: 0 if gone else round(HEAD_COUNT * own),
            FfnNeurons.name: 0 if gone else round(8 * own) * NEURON_COUNT // 8,
            TopKAttention.name: None
            if gone or rng.random() < 0.6
            else int(rng.choice([16, 32, 64])),
        }
    return found


def study(
    trials: int, *, layers: int = 6, most_members: int = 60, tied: bool = False, **changed: Any
) -> StudyData:
    """A study of this many trials with all its tables; with ``tied`` all trials are the same."""
    rng = np.random.default_rng(0)
    exact = {f"layer{i:02d}": dict(EXACT_LEVELS) for i in range(layers)}
    base = measurement(0, accuracy=0.912, accuracy_low=0.9, accuracy_high=0.923, choices=exact)
    keep = np.full(trials, 0.6) if tied else rng.uniform(0.25, 1, trials)
    noise = np.zeros(trials) if tied else np.abs(rng.normal(0, 0.012, trials))
    latency = 0.15 + 0.85 * keep + noise
    size = 0.5 + 0.5 * keep + (0 if tied else rng.normal(0, 0.04, trials))
    accuracy = 0.92 - 0.12 * (1 - keep) ** 2 - noise
    points = [
        Point(i, float(a), float(la), float(s), bool(a >= 0.87 and la <= 0.9))
        for i, (a, la, s) in enumerate(zip(accuracy, latency, size, strict=True))
    ]
    members = [
        measurement(
            p.trial,
            accuracy=p.accuracy,
            accuracy_low=p.accuracy - 0.012,
            accuracy_high=p.accuracy + 0.011,
            latency_ratio=(p.latency or 0) * 1.02,
            size_ratio=p.size,
            choices=choices(float(keep[p.trial]), layers, rng),
        )
        for p in on_front([p for p in points if p.feasible], tied)[:most_members]
    ]
    return StudyData(
        name="made-up",
        metric="accuracy",
        **{
            "limits": {"max_drop": 0.042, "max_latency_ratio": 0.9},
            "reference": 0.5,
            "baseline": base if trials else None,
            "points": points,
            "front": members,
            "ties": ties(members),
            "holdout": {
                m.trial: Estimate(m.accuracy - 0.006, m.accuracy - 0.02, m.accuracy + 0.007)
                for m in (base, *members)
            },
            "bias": "Selection bias: +0.0061 (+0.0012 to +0.0110, 95 %; mean of 9 models).",
            "times": times(trials, rng),
            "damage": damage(layers),
            "levels": {
                f"layer{i:02d}.{name}": values
                for i in range(layers)
                for name, values in LEVELS.items()
            },
            "latency_table": latency_table(),
            "scenario": "batches of 8 with 64 tokens, 2 threads, float32, cpu",
            "importance": {
                f"layer{i:02d}": list(10 ** rng.uniform(-4, 0, HEAD_COUNT)) for i in range(layers)
            },
            **changed,
        },
    )


def on_front(points: list[Point], tied: bool) -> list[Point]:
    """Those of a Pareto front, the fastest first; all of them where they are tied."""
    if not tied:
        costs = [(-p.accuracy, p.latency or 0, p.size) for p in points]
        points = [points[i] for i in pareto.front(costs)]
    return sorted(points, key=lambda p: p.latency or 0)


def ties(members: Sequence[Measurement]) -> list[list[int]]:
    """Overlapping groups of neighbours in accuracy."""
    ordered = sorted(members, key=lambda m: m.accuracy)
    trials = [m.trial or 0 for m in ordered]
    if len({m.accuracy for m in members}) == 1:
        return [trials]
    return [trials[i : i + 4] for i in range(0, len(trials), 3)]


def times(trials: int, rng: np.random.Generator) -> list[TrialTime]:
    """Two workers, of which each trial takes some ten seconds."""
    found = []
    for trial in range(trials):
        began, took = 5.0 * trial, float(rng.uniform(8, 12))
        known = None if trial % 10 == 9 else took - 0.3 - 0.5 * trial / max(trials, 1)
        found.append(TrialTime(trial, began, began + took, known))
    return found


def damage(layers: int) -> dict[str, list[float]]:
    """The damage of each level of each parameter, as :class:`StudyData` has it."""
    found: dict[str, list[float]] = {}
    for i in range(layers):
        found[f"layer{i:02d}.{Heads.name}"] = [
            0.0,
            *(10.0 ** (level - 5 + 2 * i / layers) for level in range(4)),
        ]
        found[f"layer{i:02d}.{FfnNeurons.name}"] = [
            0.0,
            *(10.0 ** (level - 4 - i / layers) for level in range(4)),
        ]
        found[f"layer{i:02d}.{TopKAttention.name}"] = [0.0, 1e-7, 1e-5, 4e-4]
    return found


def latency_table() -> LatencyTable:
    """A latency table with some levels of heads, neurons and top-k attention."""
    heads, neurons = f"{ATTENTION} {Heads.name}", f"{FFN} {FfnNeurons.name}"
    topk = f"{TopKAttention.name}={{}}.{TopKAttention.mode}".format
    blocks = {ATTENTION: 0.055, FFN: 0.1, f"{heads}=0": 0.0005, f"{neurons}=0": 0.0004}
    blocks |= {f"{heads}={h}": 0.008 + 0.0039 * h for h in (3, 6, 9)}
    blocks |= {f"{neurons}={f}": 0.004 + 0.096 * f / NEURON_COUNT for f in (384, 768, 1152)}
    blocks |= {
        f"{ATTENTION} {topk(32)}": 0.061,
        f"{heads}=6 {topk(32)}": 0.034,
        f"{ATTENTION} {topk(64)}": 0.064,
    }
    return LatencyTable(0.07, blocks, error=0.018)
