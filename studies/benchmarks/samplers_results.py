"""The table and the plot of samplers.py, from its JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from axsearch.calibration.importance import PATH
from axsearch.statistics.pareto import hypervolume

mpl.use("svg")
import matplotlib.pyplot as plt

BACKWARD = 3
"""A forward and a backward pass take about as much as three forward passes."""

SHOWN = ("auto", "kwon", "hat", "tpe", "nsga2", "gp", "random")


def write_results(stored: Mapping[str, Any], folder: Path) -> None:
    """Write samplers.md and samplers.svg."""
    facts, runs = stored["facts"], stored["runs"]
    (folder / "samplers.md").write_text(table(facts, runs))
    picture(facts, runs, folder / "samplers.svg")


def calibration(facts: Mapping[str, Any], contender: str) -> float:
    """Examples run before the first trial, a backward pass counted as two forward passes."""
    scored = BACKWARD * facts["calibration_examples"]
    if contender == "kwon":
        return scored
    if contender.startswith(("auto", "warm start")):
        return scored * (1 + len(PATH)) + facts["damage_examples"]
    return 0.0  # general samplers get the importance order of their genome for free


def curve(
    facts: Mapping[str, Any], run: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Examples run, estimated seconds and the hypervolume after each trial."""
    rows = run["trials"]
    accuracy = np.array([row["accuracy"] for row in rows])
    latency = np.array([row["latency"] for row in rows])
    examples = calibration(facts, run["contender"]) + facts["examples"] * np.arange(
        1, len(rows) + 1
    )
    own = np.array([row["sampler_seconds"] for row in rows]) + latency * facts["base_seconds"]
    known = facts.get("calibration_seconds", 0.0)  # what was kept from an earlier run was not timed
    before = known if run["contender"].startswith(("auto", "warm")) else 0.0
    volumes = [
        hypervolume(latency[:count, None], accuracy[:count], facts["trivial"])
        for count in range(1, len(rows) + 1)
    ]
    return examples, before + np.cumsum(own), np.array(volumes)


def at(
    facts: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], contender: str, examples: float
) -> float:
    """The mean hypervolume of a contender's runs after this many examples."""
    found = []
    for run in runs:
        if run["contender"] == contender:
            spent, _, volumes = curve(facts, run)
            inside = volumes[spent <= examples]
            found.append(inside[-1] if len(inside) else 0.0)
    return float(np.mean(found)) if found else float("nan")


def table(facts: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every contender at the end, and after as many examples as auto."""
    names = list(dict.fromkeys(run["contender"] for run in runs))
    auto = [curve(facts, run)[0][-1] for run in runs if run["contender"] == "auto"]
    budget = max(auto) if auto else np.inf
    text = [
        f"Accuracy above {facts['trivial']:.3f} against latency below the base's; base accuracy "
        f"{facts['base_accuracy']:.4f} on {facts['examples']} search examples. Means over seeds.",
        "",
        "| contender | runs | trials | hypervolume | least | most | at auto's examples | "
        "sampler, ms a trial |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        own = [run for run in runs if run["contender"] == name]
        ends = [curve(facts, run)[2][-1] for run in own]
        trials = max(len(run["trials"]) for run in own)
        times = np.mean([row["sampler_seconds"] for run in own for row in run["trials"]])
        text.append(
            f"| {name} | {len(own)} | {trials} | {np.mean(ends):.4f} | {min(ends):.4f} | "
            f"{max(ends):.4f} | {at(facts, runs, name, budget):.4f} | {1e3 * times:.0f} |"
        )
    return "\n".join(text) + "\n"


def picture(facts: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mean hypervolume against examples run and against seconds."""
    mpl.rcParams["svg.hashsalt"] = "samplers"  # the same picture for the same numbers
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    names = [n for n in SHOWN if any(run["contender"] == n for run in runs)]
    forms = {r["contender"] for r in runs if r["contender"].startswith("axformer")}
    names += sorted(forms, key=lambda name: -at(facts, runs, name, np.inf))[:2]
    for name in names:
        curves = [curve(facts, run) for run in runs if run["contender"] == name]
        length = min(len(c[0]) for c in curves)
        examples, seconds, volumes = (
            np.mean([c[i][:length] for c in curves], axis=0) for i in range(3)
        )
        for axis, spent in zip(axes, (examples, seconds), strict=True):
            axis.plot(spent, volumes, label=name, linewidth=2.2 if name == "auto" else 1.2)
    axes[0].set_xlabel("examples run, calibration counted")
    counted = "calibration_seconds" in facts
    axes[1].set_xlabel(
        "seconds, evaluations by the latency table"
        + ("" if counted else "; calibration not counted")
    )
    axes[0].set_ylabel("hypervolume")
    for axis in axes:
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
