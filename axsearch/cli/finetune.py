"""``axsearch finetune``."""

from __future__ import annotations

import json as to_json
from typing import Annotated

from axsearch.cli.options import Json, Without
from axsearch.training.request import FinetuneRequest


def finetune(
    request: Annotated[FinetuneRequest, Without(("search_examples", "vocabulary_from"))],
    json: Json = False,
) -> None:
    """Fine-tune a model on labelled data, so that there is a base to search from.

    \b
    Example:
      axsearch finetune --model bert-base-uncased --data data --out base
    """
    from axsearch.training.finetuning import train

    done = train(request)
    if json:
        found = {"path": str(done.path), "metric": done.metric, **done.validation._asdict()}
        print(to_json.dumps({**found, "cached": done.cached}))
        return
    value, low, high = done.validation
    cached = " (already there)" if done.cached else ""
    print(f"{done.path}: {done.metric} {value:.4f} ({low:.4f} to {high:.4f}) on validation{cached}")
