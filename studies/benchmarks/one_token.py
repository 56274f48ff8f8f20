"""The exact model whose last layer computes only the token that its head reads, against the base.

    make demo
    python studies/benchmarks/one_token.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes one_token.json: the median ratio of paired passes with its 95 % interval, for the model on
batches of the search split and for random weights of BERT-base's shape (12 layers) on random
tokens, and the largest difference between the logits of the two. The limit: without its last layer
a model of n layers takes about (n - 1) / n of its time in layers, 5/6 and 11/12.
"""

import argparse
import json
from pathlib import Path

import torch
from rich.progress import track
from transformers import BertConfig, BertForSequenceClassification

from axsearch import Recipe, Task, shrink
from axsearch.evaluation.latency import measure_latency, workload
from axsearch.runtimes import open_session
from axsearch.space.scenario import Scenario

ONE_TOKEN = {"version": 1, "sites": {"stack": {"one_token": {"tokens": 1}}}}
SHAPES = ((8, 64), (32, 26), (1, 64))


def main() -> None:
    """Time the pairs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned classifier")
    parser.add_argument("data", help="its data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="of the random weights")
    options = parser.parse_args()
    task = Task.load(options.model, options.data)
    scenario = Scenario(32, None, options.threads)
    batches = workload(task.search, scenario, task.model.config.vocab_size)
    todo = [("the model, 32 examples at their own lengths", task.model, scenario, batches)]
    torch.manual_seed(0)
    large = BertForSequenceClassification(BertConfig(num_hidden_layers=options.layers)).eval()
    for rows, length in SHAPES:
        ids = torch.randint(1000, 30000, (rows, length))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        name = f"BERT-base's shape, {options.layers} layers, {rows} x {length}"
        todo.append((name, large, Scenario(rows, length, options.threads), [batch]))
    found = {}
    for name, model, scenario, batches in track(todo, description="timing"):
        small = shrink(model, Recipe.from_dict(ONE_TOKEN))
        with open_session(model, scenario) as base, open_session(small, scenario) as other:
            measured = measure_latency(base, other, batches, pairs=options.pairs)
        with torch.no_grad():
            apart = max(float((model(**b).logits - small(**b).logits).abs().max()) for b in batches)
        found[name] = {
            "ratio": measured.ratio, "low": measured.low, "high": measured.high,
            "logits_differ_by": apart,
        }  # fmt: skip
    facts = {"runtime": "torch", "precision": "float32", **{
        name: getattr(options, name) for name in ("pairs", "threads")
    }}  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"facts": facts, "models": found}
    (options.out / "one_token.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
