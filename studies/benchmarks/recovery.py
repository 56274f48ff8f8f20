"""What training after the cut is worth, beside other ways to a model of the same latency.

At each target, a share of the base's time, the models are

- ``recovered``: the fastest of a study's front that is at least as slow, as cut, refitted and then
  trained by `axsearch recover`'s procedure;
- ``layers``: as many of the base's layers as take at least as long, evenly spaced, trained in the
  same way (DistilBERT's initialisation, arXiv 1910.01108);
- ``dense``: a model of the base's depth whose layers have few heads and neurons, all the same
  number, that takes at least as long; its layers begin with random weights;
- ``unlabelled``: the first one, trained with the texts of `--unlabelled` as well;
- ``longer``: the same without these texts, for as many steps;
- ``outputs``: the first one, which learns from the base's outputs alone, and not from labels;
- ``adapters``: the first one, with LoRA adapters of rank `--adapters` in place of its layers'
  weights, at a rate that is as many times higher as `axsearch recover`'s is.

Once, at a target of 1, the ``control`` is made: the base trained further on the labels. All learn
from the same teacher for the same number of passes. For the demo's model and study:

    make demo
    python studies/benchmarks/recovery.py .cache/movie_reviews/base .cache/movie_reviews/data \
        --storage sqlite:///.cache/movie_reviews/studies.db --study movie-reviews

It writes recovery_NAME.json after each model; rows that are already in the file are not made again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from axsearch import Evaluator, Recipe, Study, Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.evaluation.accuracy import predict
from axsearch.evaluation.loading import shown_evaluators
from axsearch.running.recovering import PROCEDURE
from axsearch.space.recipe import EXACT
from axsearch.space.scenario import Scenario
from axsearch.statistics.inference import estimate, paired_differences
from axsearch.statistics.outcome import Outcome
from axsearch.store.database import open_database
from axsearch.system.machine import machine_name
from axsearch.training.finetuning import LEARNING_RATE
from axsearch.training.learning_rate import ADAPTERS
from axsearch.training.lesson import Teacher
from axsearch.training.recovery import Pupil, Run, own_copy, train
from axsearch.training.request import LABEL_WEIGHT

TARGETS = (0.15, 0.08)
MODELS = ("recovered", "outputs", "adapters", "unlabelled", "longer", "layers", "dense", "control")


class Bench:
    """The task, what is known of it, and the rows that were made."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.task = Task.load(options.model, options.data)
        self.base = self.task.base
        self.study = Study.open(options.storage, options.study)
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_database(f"sqlite:///{self.folder.name}/times.db", create=True)
        self.evaluator = Evaluator(
            self.task,
            self.database.engine,
            Scenario(options.batch_size, None, options.threads),
        )
        self.teacher = Teacher(self.task, "cpu")
        more = options.unlabelled
        self.more = None if more is None else Teacher(self.task, "cpu", unlabelled=more)
        self.target = options.out / f"recovery_{options.name}.json"
        self.facts = {
            "model": self.task.model_fingerprint, "metric": self.task.metric,
            "machine": machine_name(), "epochs": options.epochs, "rate": options.rate,
            "threads": options.threads, "batch_size": options.batch_size,
            "procedure": PROCEDURE, "label_weight": LABEL_WEIGHT,
            "train": len(self.task.source.labelled), "search": len(self.task.search),
            "holdout": len(self.task.holdout),
        }  # fmt: skip
        self.rows: list[dict[str, Any]] = []
        if self.target.exists() and (found := json.loads(self.target.read_text())):
            self.rows = found["rows"] if found["facts"] == self.facts else []

    def ratio(self, recipe: Recipe) -> float:
        """A recipe's measured time over the base's."""
        found = self.evaluator.latency(recipe)
        assert found is not None
        return found.ratio

    def outcomes(self, model: PreTrainedModel) -> dict[str, Outcome]:
        """A model's answers to the splits that nothing is trained on."""
        task = self.task
        return {
            split.name: task.kind.outcome(task.metric, split, predict(model, split, task.kind))
            for split in (task.search, task.holdout)
        }

    def row(self, what: str, at: float, recipe: Recipe, small: PreTrainedModel) -> None:
        """Train a model and write its row."""
        teacher = self.more if what == "unlabelled" and self.more is not None else self.teacher
        lesson, epochs = teacher.lesson(recipe), self.options.epochs
        if what == "longer" and self.more is not None:
            learnt = len(self.more.lesson(recipe).train)
            epochs = max(1, round(epochs * learnt / len(lesson.train)))
        print(f"{what} at {at}: {self.ratio(recipe):.3f} of the base's time", flush=True)
        exact = self.outcomes(self.task.model)
        before = self.outcomes(small.eval())
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rate = LEARNING_RATE if what == "control" else self.options.rate
            rank = self.options.adapters if what == "adapters" else None
            run = Run(
                Path(folder), rate if rank is None else rate * ADAPTERS, epochs,
                self.options.seed, adapters=rank,
                label_weight=0.0 if what == "outputs" else LABEL_WEIGHT,
            )  # fmt: skip
            layers = self.base.plan(recipe).layers
            pupil = Pupil(self.task.kind, self.base, layers, plain=what == "control")
            found = train(small, lesson, pupil, run, "cpu")
        seconds = time.monotonic() - began
        after = self.outcomes(small.eval())
        splits = {}
        for name, own in after.items():
            (change,) = paired_differences([own], exact[name], 0)
            splits[name] = {
                "before": estimate(before[name]).value,
                "after": estimate(own)._asdict(),
                "base": estimate(exact[name]).value,
                "against_base": change._asdict(),
            }
        self.rows.append(
            {
                "what": what, "target": at, "seed": self.options.seed, "recipe": recipe.hash,
                "latency": self.ratio(recipe), "seconds": seconds, "steps": found.steps,
                "rate": found.rate, "adapters": rank, "texts": len(lesson.train),
                "loss": found.loss, "loss_before": found.before, **splits,
            }
        )  # fmt: skip
        self.write()

    def known(self, what: str, at: float) -> bool:
        """Whether a row was made, or is not asked for."""
        if what not in self.options.models:
            return True
        key = (what, at, self.options.seed)
        return key in [(row["what"], row["target"], row["seed"]) for row in self.rows]

    def write(self) -> None:
        """All rows, as JSON."""
        self.options.out.mkdir(exist_ok=True)
        result = {"facts": self.facts, "rows": self.rows}
        self.target.write_text(json.dumps(result, indent=1) + "\n")

    def from_front(self, at: float) -> Recipe:
        """The fastest member of the study's front that takes at least this share of the time."""
        members = [m for m in self.study.front_as_cut() if m.latency_ratio]
        fit = [m for m in members if (m.latency_ratio or 0) >= at] or members
        return Recipe.from_dict(min(fit, key=lambda m: m.latency_ratio or 0).recipe)

    def layers(self) -> Iterator[Recipe]:
        """The base with ever more of its layers, evenly spaced."""
        count = len(self.base.layers(self.base.model))
        for kept in range(1, count):
            stay = set(np.linspace(0, count - 1, kept).round().astype(int).tolist())
            yield self.cut(lambda id, whole, stay=stay: whole if id.layer in stay else 0)

    def widths(self) -> Iterator[Recipe]:
        """The base with ever wider layers, all the same."""
        for share in np.arange(1, 24) / 24:
            yield self.cut(lambda _, whole, share=share: max(1, round(share * whole)))

    def cut(self, kept: Any) -> Recipe:
        """The recipe that keeps so many units of each block, the first ones."""
        sites: dict[SiteId, dict[str, Any]] = {}
        for id, site in self.base.sites.items():
            names = {"attention": "heads", "ffn": "ffn"}
            if id.layer == OUTSIDE or site.units is None or id.kind not in names:
                continue
            count = kept(id, site.count)
            sites[id] = {names[id.kind]: Kept(of=site.count, kept=tuple(range(count)))}
        return Recipe.of(sites)


def least(bench: Bench, recipes: Iterator[Recipe], at: float) -> Recipe:
    """The first recipe that takes at least this share of the base's time, else the last."""
    for recipe in recipes:
        if bench.ratio(recipe) >= at:
            break
    return recipe


def at_random(bench: Bench, model: PreTrainedModel) -> PreTrainedModel:
    """The model with new weights in its layers, as transformers makes them."""
    torch.manual_seed(bench.options.seed)
    spread = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for layer in bench.base.layers(model):
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.normal_(0, spread)
                    if module.bias is not None:
                        module.bias.zero_()
                elif isinstance(module, torch.nn.LayerNorm):
                    module.reset_parameters()
    return model


def main() -> None:
    """Train each model that is not in the file."""
    options = asked()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    for at in options.targets:
        recipe = bench.from_front(at)
        ratio = bench.ratio(recipe)
        more = ("unlabelled", "longer") if bench.more else ()
        for what in ("recovered", "outputs", "adapters", *more):
            if not bench.known(what, at):
                weights = shown_evaluators(bench.study, bench.task, [recipe])[recipe.hash].weights
                bench.row(what, at, recipe, own_copy(weights.shrink(recipe)))
        if not bench.known("layers", at):
            other = least(bench, bench.layers(), ratio)
            small = own_copy(bench.evaluator.weights.shrink(other))
            bench.row("layers", at, other, small)
        if not bench.known("dense", at):
            other = least(bench, bench.widths(), ratio)
            small = at_random(bench, own_copy(bench.evaluator.weights.shrink(other)))
            bench.row("dense", at, other, small)
    if not bench.known("control", 1.0):
        bench.row("control", 1.0, EXACT, own_copy(bench.task.model))
    bench.write()
    for row in bench.rows:
        values = [f"{row[split]['after']['value']:.4f}" for split in ("search", "holdout")]
        print(row["what"], row["target"], f"{row['latency']:.3f}", *values, f"{row['seconds']:.0f}")


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--storage", required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--unlabelled", help="file of more texts, see axsearch recover")
    parser.add_argument("--targets", type=float, nargs="*", default=TARGETS)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--adapters", type=int, default=16, help="rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--name", default="movie_reviews")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
