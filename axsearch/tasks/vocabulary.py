"""Which tokens texts need, and the tokenizer that has no others.

A tokenizer with fewer tokens reads a text of which it has all tokens as before: WordPiece takes the
longest piece at each place, Unigram the likeliest pieces, BPE merges in a fixed order, and what is
missing was not taken. Any other text is spelled with shorter pieces. For that each character that a
removed piece has must be a piece itself, at the beginning and inside of words where these differ;
pieces of which that is not so stay. Of WordPiece none such may stand inside of words: the longest
piece that is left could reach into it, and leave a rest that nothing spells.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from axsearch.approximations.site import TokenUse
from axsearch.errors import UsageError
from axsearch.tasks.data_files import read_lines

T = TypeVar("T")

AT_ONCE = 10_000
"""Texts that are tokenised together, so that their tokens never all lie in memory."""

LOWEST = 100
"""A padding token with a lower id keeps it, and so do the tokens below: some families count
positions from it on, and one has it written into its code."""


def why_not(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why a tokenizer cannot do with fewer tokens; None if it can."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return "its tokenizer has no tokenizer.json, which can be rewritten"
    model = _read(tokenizer)["model"]
    if model["type"] not in NEEDED:
        return f"its tokenizer ({model['type']}) cannot spell a word that it does not have"
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        inside = [one for one in _of_wordpiece(model) if one.startswith(prefix)]
        odd = min((one for one in inside if len(one) > len(prefix) + 1), default=None)
        if odd is not None:
            return f"its tokenizer has pieces that no single characters spell, such as {odd}"
    return None


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    ids: Iterable[Sequence[int]],
) -> TokenUse:
    """How often each token occurs.

    Args:
        tokenizer: one that :func:`why_not` has nothing against.
        config: of the model, whose embeddings may have more rows than the tokenizer has tokens.
        ids: the token ids of texts.
    """
    rows = int(config.vocab_size)
    counts: NDArray[np.int64] = np.zeros(rows, np.int64)
    for part in ids:
        counts += np.bincount(np.asarray(part, np.int64), minlength=rows)
    data = _read(tokenizer)
    model = data["model"]
    vocabulary = _pieces(model)
    needed = {vocabulary[piece] for piece in NEEDED[model["type"]](model)}
    if model.get("unk_token") in vocabulary:
        needed.add(vocabulary[model["unk_token"]])
    entries = config.to_dict().items()
    named = {token for name, token in entries if name.endswith("_token_id")}
    named |= {tokenizer.pad_token_id or 0}  # with which batches are filled
    named = {token for token in named if isinstance(token, int) and 0 <= token < rows}
    pad = config.pad_token_id
    if isinstance(pad, int) and pad < LOWEST:
        named |= {*range(pad + 1)}
    needed |= named | _special(tokenizer, data)
    found, ranks = _with_parts(model, counts.tolist())
    return TokenUse(tuple(found), frozenset(needed), tuple(ranks))


def texts_of(path: str, encoding: str | None) -> list[str]:
    """The lines of a text file that are not blank; raises UsageError where it cannot be read."""
    found = [line for line in read_lines(Path(path).expanduser(), encoding) if line.strip()]
    if not found:
        raise UsageError(f"`vocabulary_from={path}` holds no text.")
    return found


def ids_of(
    texts: Sequence[T], ids: Callable[[list[T]], Iterable[Sequence[int]]]
) -> Iterable[list[int]]:
    """The token ids of texts, those of some thousand in one list; ``ids`` tokenises some."""
    for start in range(0, len(texts), AT_ONCE):
        yield [*chain.from_iterable(ids([*texts[start : start + AT_ONCE]]))]


def with_tokens(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """The tokenizer that has these tokens and no others, with ids from 0 in their order."""
    data = _read(tokenizer)
    places = {token: place for place, token in enumerate(kept)}
    _keep(data["model"], places)
    for added in data["added_tokens"]:
        added["id"] = places[added["id"]]
    _renumber(data["post_processor"], places)
    smaller = copy.deepcopy(tokenizer)
    smaller._tokenizer = Tokenizer.from_str(json.dumps(data))
    return smaller


def _read(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def _pieces(model: Mapping[str, Any]) -> dict[str, int]:
    """The ids of a model's pieces."""
    if model["type"] == "Unigram":
        return {piece: place for place, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _special(tokenizer: PreTrainedTokenizerBase, data: Mapping[str, Any]) -> set[int]:
    """The ids of the tokens that are no part of texts, or were added whole."""
    found = {*tokenizer.all_special_ids, *(one["id"] for one in data["added_tokens"])}
    seen: dict[int, int] = {}
    _renumber(copy.deepcopy(data["post_processor"]), _Seen(seen))
    return found | {*seen}


class _Seen(dict[int, int]):
    """Leaves ids as they are, and notes which were asked for."""

    def __init__(self, seen: dict[int, int]) -> None:
        self._seen = seen

    def __missing__(self, token: int) -> int:
        self._seen[token] = token
        return token


def _renumber(processor: Any, places: Mapping[int, int]) -> None:
    """Give a post-processor, and those inside it, the new ids of its tokens."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, places)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [places[token] for token in special["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            piece, token = processor[name]
            processor[name] = [piece, places[token]]


def _keep(model: dict[str, Any], places: Mapping[int, int]) -> None:
    """Leave a model only its pieces that have a place, with that as their id."""
    old = _pieces(model)
    if model["type"] == "Unigram":
        model["vocab"] = [one for place, one in enumerate(model["vocab"]) if place in places]
        if model.get("unk_id") is not None:
            model["unk_id"] = places[model["unk_id"]]
        return
    left = {piece: places[token] for piece, token in old.items() if token in places}
    model["vocab"] = left
    if "merges" in model:
        model["merges"] = [
            merge
            for merge, (first, second, both) in zip(model["merges"], _merges(model), strict=True)
            if first in left and second in left and both in left
        ]


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The two pieces of each merge of BPE, and the one that it makes."""
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = (one.split(" ", 1) if isinstance(one, str) else one for one in model["merges"])
    return [(first, second, first + second.removeprefix(prefix)) for first, second in pairs]


def _with_parts(model: Mapping[str, Any], counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Counts and ranks of tokens, those of what BPE merges to a token no worse than the token's."""
    found, first = list(counts), list(range(len(counts)))
    ids = model["vocab"] if "merges" in model else {}
    for *parts, both in reversed(_merges(model)) if ids else ():
        for part in parts:
            if part in ids and both in ids:
                one, other = ids[part], ids[both]
                found[one] = max(found[one], found[other])
                first[one] = min(first[one], first[other])
    lengths = dict.fromkeys(range(len(counts)), 0) | {token: len(one) for one, token in ids.items()}
    order = sorted(range(len(counts)), key=lambda token: (first[token], lengths[token]))
    ranks = [0] * len(counts)
    for rank, token in enumerate(order):
        ranks[token] = rank
    return found, ranks


def _of_wordpiece(model: Mapping[str, Any]) -> set[str]:
    """Single characters, and the pieces that these cannot spell."""
    prefix, pieces = model["continuing_subword_prefix"], set(model["vocab"])

    def spelling(piece: str) -> list[str]:
        inside = piece.startswith(prefix) and len(piece) > len(prefix)
        letters = piece.removeprefix(prefix) if inside else piece
        first = prefix if inside else ""
        return [f"{prefix if n else first}{letter}" for n, letter in enumerate(letters)]

    return _unspelled(pieces, spelling)


def _of_unigram(model: Mapping[str, Any]) -> set[str]:
    pieces = {piece for piece, _ in model["vocab"]}
    found = _unspelled(pieces, list)
    if model.get("byte_fallback"):  # what spells all that has no piece of its own
        found |= {piece for piece in pieces if BYTE.fullmatch(piece)}
    if model.get("unk_id") is not None:
        found.add(model["vocab"][model["unk_id"]][0])
    return found


BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A byte as a piece of Unigram or BPE."""


def _of_bpe(model: Mapping[str, Any]) -> set[str]:
    """What no merge makes: characters or bytes, with what marks the inside or end of a word."""
    made = {both for _, _, both in _merges(model)}
    return set(model["vocab"]) - made


def _unspelled(pieces: set[str], spelling: Callable[[str], list[str]]) -> set[str]:
    """The pieces that are spelled by themselves alone, or by pieces that are not there."""
    return {
        piece
        for piece in pieces
        if (letters := spelling(piece)) == [piece] or not pieces.issuperset(letters)
    }


NEEDED: Mapping[str, Callable[[Mapping[str, Any]], set[str]]] = {
    "WordPiece": _of_wordpiece,
    "Unigram": _of_unigram,
    "BPE": _of_bpe,
}
"""By the type of a tokenizer's model, the pieces with which it can spell any text that it knows."""
