"""Fewer tokens: which stay, and that a tokenizer without the others reads texts as it should."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from axsearch.errors import UsageError
from axsearch.tasks import vocabulary
from axsearch.tasks.vocabulary import count_tokens, ids_of, texts_of, why_not, with_tokens
from axsearch.testing.text import tiny_tokenizer

SYLLABLES = ["ba", "ko", "li", "mu", "ne", "ra", "so", "ti", "vu", "zé", "çà", "þo", "яг", "日本"]


def texts(count: int, seed: int) -> list[str]:
    """Words of two to four syllables; texts of another seed have many words that these lack."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(200)]
    return [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(count)]


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[(one, tokenizer.token_to_id(one)) for one in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(texts(400, 0) + texts(400, 1), trainer)
    return _wrapped(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(texts(400, 0) + texts(400, 1), trainer)
    return _wrapped(tokenizer)


def byte_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(400, 0) + texts(400, 1), trainer)
    return _wrapped(tokenizer)


def character_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="@@"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, continuing_subword_prefix="@@", show_progress=False
    )
    tokenizer.train_from_iterator(texts(400, 0) + texts(400, 1), trainer)
    return _wrapped(tokenizer)


KINDS: list[Callable[[], PreTrainedTokenizerFast]] = [wordpiece, unigram, byte_bpe, character_bpe]


@pytest.fixture(scope="module", params=KINDS, ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = request.param()
    return made


def counted(tokenizer: PreTrainedTokenizerBase, some: list[str], rows: int | None = None) -> Any:
    parts = ids_of(some, lambda own: tokenizer(own)["input_ids"])
    config = BertConfig(vocab_size=rows or len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    return count_tokens(tokenizer, config, parts)


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))


def test_texts_of_the_tokens_that_stay_are_read_as_before(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """By how often the tokens occur in one language, of which the others are read, too."""
    use = counted(tokenizer, texts(100, 0))
    for count in (1, 8, 64):
        kept = sorted(use.order[-use.at_least(count) :])
        smaller = with_tokens(tokenizer, kept)
        assert len(smaller) == len(kept) < len(tokenizer)
        places = {token: place for place, token in enumerate(kept)}
        same = 0
        for text in texts(100, 0) + texts(100, 1) + ["", "ba", "bako çàþo"]:
            ids = tokenizer(text)["input_ids"]
            found = smaller(text)["input_ids"]
            assert max(found) < len(kept)
            if set(ids) <= places.keys():
                same += 1
                assert found == [places[token] for token in ids]
            else:
                assert len(found) >= len(ids)
            # What was spelled before is spelled now, by other pieces.
            unknown = tokenizer.unk_token_id in ids
            assert (smaller.unk_token_id in found) is unknown
        assert same >= (100 if count == 1 else 1)


def test_it_is_saved_and_loaded_with_its_own_ids(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    use = counted(tokenizer, texts(50, 0))
    kept = sorted(use.order[-use.at_least(4) :])
    before = tokenizer(texts(1, 0)[0])["input_ids"]
    smaller = with_tokens(tokenizer, kept)
    assert tokenizer(texts(1, 0)[0])["input_ids"] == before  # which stays as it was
    smaller.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts(50, 3):
        assert again(text)["input_ids"] == smaller(text)["input_ids"]
        assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == smaller.decode(
            smaller(text)["input_ids"], skip_special_tokens=True
        )
    for name in ("pad_token_id", "unk_token_id", "sep_token_id", "mask_token_id"):
        assert getattr(again, name) == kept.index(getattr(tokenizer, name))
    assert again("ba", "ko")["input_ids"].count(again.sep_token_id) == 2


def test_what_many_texts_have_stays_longest(tokenizer: PreTrainedTokenizerFast) -> None:
    use = counted(tokenizer, texts(100, 0), rows=len(tokenizer) + 7)  # a table padded to 8 or 64
    assert len(use.counts) == len(tokenizer) + 7
    assert {*range(len(tokenizer), len(tokenizer) + 7)} <= {*use.order[: -use.at_least(1)]}
    assert sum(use.counts) >= sum(len(tokenizer(text)["input_ids"]) for text in texts(100, 0))
    left = [use.at_least(count) for count in (0, 1, 2, 4, 8, 1 << 30)]
    assert left == sorted(left, reverse=True)
    assert left[0] == len(use.counts)
    assert left[-1] == len(use.needed)
    assert {*tokenizer.all_special_ids} <= use.needed
    order = [use.counts[token] for token in use.order if token not in use.needed]
    assert order == sorted(order)


def test_what_bpe_merges_stays_with_what_it_makes() -> None:
    tokenizer = byte_bpe()
    use = counted(tokenizer, texts(20, 0))
    data = vocabulary._read(tokenizer)["model"]
    for first, second, both in vocabulary._merges(data):
        counts = [use.counts[data["vocab"][piece]] for piece in (first, second, both)]
        assert min(counts[:2]) >= counts[2]


def test_one_that_cannot_spell_is_refused() -> None:
    reason = why_not(tiny_tokenizer())
    assert reason == "its tokenizer (WordLevel) cannot spell a word that it does not have"
    assert all(why_not(make()) is None for make in KINDS)


def test_a_piece_that_no_others_spell_stays() -> None:
    words = {"<unk>": 0, "a": 1, "##b": 2, "ab": 3, "##c": 4, "xyz": 5, "abc": 6}
    needed = vocabulary._of_wordpiece({"vocab": words, "continuing_subword_prefix": "##"})
    assert needed == {"<unk>", "a", "##b", "##c", "xyz"}  # no ##y, no ##z


def test_pieces_inside_of_words_that_no_others_spell_are_refused() -> None:
    """With ab removed, the longest piece ##bx would leave yz of abxyz, which nothing spells."""
    words = ["<unk>", "<pad>", "a", "##b", "##x", "##z", "ab", "##xyz", "##bx"]
    pieces = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    reason = why_not(wrapped)
    assert reason == "its tokenizer has pieces that no single characters spell, such as ##xyz"


def test_the_models_unknown_piece_stays_though_it_can_be_spelled() -> None:
    words = ["[UNK]", "[", "##U", "##N", "##K", "##]", "a", "b"]
    pieces = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    use = counted(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ["a"])
    assert 0 in use.needed


def test_bytes_that_unigram_falls_back_to_stay() -> None:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [(one, 0.0) for one in ("<unk>", "a", "b", "ab", *"<0x>123456789ABCDEF", *fallback)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    use = counted(wrapped, ["ab"])
    smaller = with_tokens(wrapped, sorted(use.order[-use.at_least(2) :]))
    assert pieces_of(smaller, "abé") == ["a", "b", "<0xC3>", "<0xA9>"]
    assert pieces_of(wrapped, "abé")[-2:] == ["<0xC3>", "<0xA9>"]


def test_a_part_of_bpe_stays_as_long_as_what_it_makes_whatever_their_ids() -> None:
    """RoBERTa's ids are not in the order of its merges."""
    words = {"<unk>": 0, "cat": 1, "c": 2, "a": 3, "t": 4, "ca": 5, "at": 6}
    merges = [("c", "a"), ("a", "t"), ("ca", "t")]
    tokenizer = Tokenizer(models.BPE(words, merges, unk_token="<unk>"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    order = counted(wrapped, ["a"]).order
    assert order.index(6) < order.index(1) < order.index(5)
    for kept in range(5, 8):
        smaller = with_tokens(wrapped, sorted(order[-kept:]))
        assert pieces_of(smaller, "cat") == (["cat"] if kept > 5 else ["ca", "t"])


def test_what_the_models_config_names_stays() -> None:
    tokenizer = byte_bpe()
    tokenizer.pad_token = None
    config = GPT2Config(vocab_size=len(tokenizer) + 9, pad_token_id=len(tokenizer) + 5)
    use = count_tokens(tokenizer, config, [])
    assert {0, len(tokenizer) + 5} <= use.needed


def test_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one text\n\n  \nanother\n")
    assert texts_of(str(path), None) == ["one text", "another"]
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        texts_of(str(tmp_path / "none.txt"), None)
    path.write_text("\n")
    with pytest.raises(UsageError, match="holds no text"):
        texts_of(str(path), None)
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UsageError, match=r"is not UTF-8 text; name its `encoding`"):
        texts_of(str(path), None)
    assert texts_of(str(path), "cp1252") == ["café"]
