"""What smaller vocabularies cost and save of a model, with nothing else changed.

Each level of the approximation is evaluated on the search and holdout splits in PyTorch, with its
own tokenizer. For the demo's model:

    make demo
    python studies/benchmarks/vocabulary.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes vocabulary.json (--name).
"""

import argparse
import json
import tempfile
from pathlib import Path

from rich.progress import track

from axsearch import Evaluator, Task
from axsearch.approximations.site import EMBEDDINGS
from axsearch.approximations.vocabulary.choice import Vocabulary
from axsearch.space.recipe import EXACT, Recipe
from axsearch.store.database import open_database


def main() -> None:
    """Evaluate the base, then every level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="vocabulary.json", help="of the file in that folder")
    options = parser.parse_args()
    task = Task.load(options.model, options.data)
    sites = task.with_token_use([*task.base.sites.values()])
    (site,) = (one for one in sites if one.id.kind == EMBEDDINGS)
    vocabulary = Vocabulary()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/levels.db", create=True)
        evaluator = Evaluator(task, database.engine, None)
        for level in track(vocabulary.levels(site)):
            choice = vocabulary.choice(site, level, ())
            recipe = Recipe.of({site.id: {vocabulary.name: choice}}) if choice else EXACT
            rows.append({"tokens": level or site.rows, **measured(task, evaluator, recipe)})
        database.close()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / options.name).write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def measured(task, evaluator, recipe):
    """Sizes and accuracies of a recipe's model, and what its tokenizer makes of the texts."""
    found = evaluator.measure(recipe)
    unknown = task.tokenizer_of(recipe).unk_token_id
    splits = {"search": task.search, "holdout": task.holdout}
    read = {name: task.read(split, recipe) for name, split in splits.items()}
    return {
        "size_ratio": found.size_ratio,
        "accuracy": {
            name: evaluator.accuracy(recipe, split).value for name, split in splits.items()
        },
        "tokens_a_text": {
            name: float(read[name].lengths.sum() / splits[name].lengths.sum()) for name in splits
        },
        "texts_with_unknown": {
            name: sum(unknown in one["input_ids"] for one in read[name].inputs) for name in splits
        },
    }


if __name__ == "__main__":
    main()
