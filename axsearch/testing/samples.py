"""Small data for each kind of task that a tiny model can learn, over the tests' vocabulary."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from axsearch.tasks.kinds import task_kinds
from axsearch.testing.text import BAD, GOOD, NEUTRAL, reviews

KINDS = sorted(task_kinds())
COUNTS = {"train": 200, "validation": 60, "test": 40}
HEAD_CONFIGS: dict[str, dict[str, Any]] = {
    "text-classification": {"id2label": {0: "bad", 1: "good"}},
    "regression": {"num_labels": 1},
    "multi-label-classification": {
        "id2label": {0: "bad", 1: "good", 2: "early"},
        "problem_type": "multi_label_classification",
    },
    "question-answering": {},
    "token-classification": {"id2label": dict(enumerate(["O", "B-BAD", "B-GOOD", "I-GOOD"]))},
}


def rows(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Examples of a kind, as a data file holds them."""
    draw = random.Random(seed)
    if kind == "text-classification":
        return [{"text": t, "label": ("bad", "good")[y]} for t, y in reviews(count, seed)]
    found: list[dict[str, Any]] = []
    if kind == "multi-label-classification":
        for text, label in reviews(count, seed):
            both = draw.random() < 0.2
            text = f"{text} {draw.choice(BAD if label else GOOD)}" if both else text
            there = {
                "bad": both or not label,
                "good": both or label,
                "early": bool({*NEUTRAL[:6]} & {*text.split()}),
            }
            found.append({"text": text, "labels": [name for name, own in there.items() if own]})
        return found
    for _ in range(count):
        words = draw.choices(NEUTRAL, k=draw.randint(4, 12))
        at = draw.randrange(len(words) - 1)
        if kind == "regression":
            for place in draw.sample(range(len(words)), draw.randint(0, 4)):
                words[place] = draw.choice(GOOD)
            found.append({"text": " ".join(words), "score": sum(w in GOOD for w in words) / 2})
        elif kind == "question-answering":
            words[at] = draw.choice(GOOD)
            start = len(" ".join([*words[:at], ""]))
            answer = {"text": [words[at]], "answer_start": [start]}
            found.append({"question": "word1", "context": " ".join(words), "answers": answer})
        elif kind == "token-classification":
            tags = ["O"] * len(words)
            words[at], words[at + 1] = draw.choice(GOOD), draw.choice(GOOD)
            tags[at], tags[at + 1] = "B-GOOD", "I-GOOD"
            if at > 1:
                words[0], tags[0] = draw.choice(BAD), "B-BAD"
            found.append({"tokens": words, "tags": tags})
        else:
            raise ValueError(f"Write rows of {kind} here, and its head in HEAD_CONFIGS.")
    return found


def write_rows(path: Path, content: list[dict[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def write_data(kind: str, folder: Path) -> Path:
    """Train, validation and test of a kind."""
    for seed, (split, count) in enumerate(COUNTS.items()):
        write_rows(folder / f"{split}.jsonl", rows(kind, count, seed))
    return folder


def with_head(kind: str, model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same family and size with random weights and the kind's head."""
    given = {**model.config.to_dict(), **HEAD_CONFIGS[kind]}
    for name in ("id2label", "label2id"):
        given.pop(name, None) if name not in HEAD_CONFIGS[kind] else None
    names = HEAD_CONFIGS[kind].get("id2label")
    if names:
        given["label2id"] = {name: index for index, name in names.items()}
    config = AutoConfig.for_model(**given)
    made: PreTrainedModel = task_kinds()[kind].auto_class.from_config(config)
    made.eval()
    return made
