"""The accuracy that top-k costs a fine-tuned model without any training: a table by k.

The same k in every layer: attention in both modes, and the FFN. Differences are paired with the
dense model, example by example, with 95 % intervals. For long texts, for instance:

    axsearch finetune --model M --data imdb --max-length 512 --out base
    python studies/benchmarks/topk_zero_shot.py base imdb --out studies/benchmarks/results

It writes topk_zero_shot.json and .md; rows of this model and data that are already in the file are
not measured again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from transformers import PreTrainedModel

from axsearch import Recipe, Task, shrink
from axsearch.approximations.choices import Setting
from axsearch.approximations.site import SiteId
from axsearch.evaluation.accuracy import predict
from axsearch.statistics.inference import paired_difference
from axsearch.statistics.metrics import value

KS = (4, 8, 16, 32, 64)
FFN_SHARES = (32, 16, 8, 4, 2)  # k = neurons divided by this


def with_topk_attention(base: PreTrainedModel, k: int, mode: str) -> PreTrainedModel:
    """Every layer attends to its k best keys."""
    layers = range(base.config.num_hidden_layers)
    setting = Setting(value=k, mode=mode)
    return shrink(base, Recipe.of({SiteId(i, "attention"): {"topk": setting} for i in layers}))


def with_topk_ffn(base: PreTrainedModel, k: int) -> PreTrainedModel:
    """Every token uses the k neurons of each layer with the largest pre-activations."""
    layers = range(base.config.num_hidden_layers)
    setting = Setting(value=k, mode="largest")
    return shrink(base, Recipe.of({SiteId(i, "ffn"): {"ffn_topk": setting} for i in layers}))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy and its paired difference in points, with the interval's ends."""
    text = ["| | k | accuracy | points against dense |", "|---|---|---|---|"]
    for row in rows:
        difference = ""
        if "difference" in row:
            ends = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
            difference = f"{100 * row['difference']:+.2f} ({ends})"
        text.append(f"| {row['what']} | {row['k'] or ''} | {row['accuracy']:.4f} | {difference} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure the rows that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned BERT classifier")
    parser.add_argument("data", help="a folder with train and validation splits, or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Task.load(options.model, options.data)
    split = task.search  # not the holdout: this compares many models
    neurons = task.model.config.intermediate_size
    wanted = [
        ("dense", None),
        *(("attention, renormalised", k) for k in KS),
        *(("attention, hard", k) for k in KS),
        *(("FFN", neurons // share) for share in FFN_SHARES),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "topk_zero_shot.json"
    facts = {
        "model": task.model_fingerprint, "data": split.fingerprint, "examples": len(split),
        "longest": int(split.lengths.max()), "median_length": int(np.median(split.lengths)),
        "neurons": neurons,
    }  # fmt: skip
    rows = []
    if target.exists() and (found := json.loads(target.read_text()))["facts"] == facts:
        rows = found["rows"]
    known = {(row["what"], row["k"]): row for row in rows}
    for what, k in track([w for w in wanted if w not in known], description="predicting"):
        model = task.model
        if what.startswith("attention"):
            model = with_topk_attention(task.model, k, what.partition(", ")[2])
        elif what == "FFN":
            model = with_topk_ffn(task.model, k)
        predicted = predict(model, split, task.kind)
        outcome = task.kind.outcome("accuracy", split, predicted)
        row = {"what": what, "k": k, "accuracy": value(outcome)}
        if what == "dense":
            row["predicted"] = list(predicted)
        else:
            dense = task.kind.outcome("accuracy", split, known["dense", None]["predicted"])
            difference = paired_difference(outcome, dense)
            row |= {"difference": difference.value, "low": difference.low, "high": difference.high}
        known[what, k] = row
        lines = ",\n".join(json.dumps(row) for row in known.values())
        target.write_text(f'{{"facts": {json.dumps(facts, indent=1)},\n"rows": [\n{lines}\n]}}\n')
        target.with_suffix(".md").write_text(table(list(known.values())))


if __name__ == "__main__":
    main()
