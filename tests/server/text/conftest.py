"""Small tokenizers of each family, built here once."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import strategies as st
from rhapsode_server.text.tokenizer import Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The sea is a sea of words, and the words are the sea. She sells seashells by the seashore.\n\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Die Königin hört zu.\n",
    "שלום עולם, שלום לכל העולם. مرحبا بالعالم مرحبا. Привет, мир! こんにちは世界 こんにちは。",
    "👩‍👩‍👧‍👦 👩‍👩‍👧 👍🏽👍🏽 🇩🇪🇫🇷 e\u0301a\u0308 \u0301\u0301 \0\0 \t  \r\n    if x:\n        return  y\n",
] * 3

Library = tokenizers.Tokenizer


def byte_level() -> Library:
    """The GPT-2 kind: every text has tokens, and any bytes can be spelled."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    library.add_tokens(["<tool call>"])
    return library


def byte_fallback() -> Library:
    """The Llama kind: U+2581 for spaces, `<0x0A>` for bytes, and a space before the text."""
    trained = Library(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, limit_alphabet=60, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    spec = json.loads(trained.to_str())["model"]
    spaces = ["▁" * 2**power for power in range(1, 6)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *spaces, *spec["vocab"]]
    library = Library(
        models.BPE(
            vocab={piece: token_id for token_id, piece in enumerate(dict.fromkeys(pieces))},
            merges=[*((piece[::2], piece[::2]) for piece in spaces), *map(tuple, spec["merges"])],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(["<s>", "</s>"])
    return library


def no_strip() -> Library:
    """The Gemma kind: as the Llama kind, but a space at the start stays."""
    library = byte_fallback()
    library.normalizer = normalizers.Replace(" ", "▁")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return library


def metaspace() -> Library:
    """The Metaspace decoder drops every U+2581 of the first token."""
    library = byte_fallback()
    library.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    return library


def unigram() -> Library:
    """The sentencepiece kind: a Unigram model, spaces as U+2581 in front of words, bytes for all other characters."""
    trained = Library(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    trained.train_from_iterator(CORPUS[:2], trainer)
    pieces = [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"] if piece != "<unk>"]
    special = [(piece, 0.0) for piece in ("<unk>", "<s>", "</s>")]
    single_bytes = [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    library = Library(models.Unigram([*special, *single_bytes, *pieces], unk_id=0, byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(["<s>", "</s>"])
    return library


WORDS = ["[PAD]", "[UNK]", "the", "##sea", "sea", "##s", ".", "'", "do", "|", "a</w>", "b", "b</w>", "▁x", "▁"]


def word_level(decoder: Any) -> Library:
    """Ids 0 to 14 are `WORDS`; 0 and 1 are special."""
    library = Library(models.WordLevel(vocab={word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        library.decoder = decoder
    library.add_special_tokens(["[PAD]", "[UNK]"])
    return library


CONCATENATING: dict[str, Callable[[], Library]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "no strip": no_strip,
    "metaspace": metaspace,
    "unigram": unigram,
}
NEIGHBOURLY: dict[str, Callable[[], Library]] = {
    "word piece": lambda: word_level(decoders.WordPiece()),
    "ctc": lambda: word_level(decoders.CTC(pad_token="[PAD]")),
    "bpe suffix": lambda: word_level(decoders.BPEDecoder()),
    "no decoder": lambda: word_level(None),
    "strip two": lambda: word_level(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)])
    ),
    "strip without fuse": lambda: word_level(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    ),
}


HARD_PARTS = [
    *"".join(CORPUS[:4]).split(" "),
    *["👩‍👩‍👧‍👦", "e\u0301", "\u0301", "\0", "▁", "\ufffd", "  ", "<tool call>", "</s>"],
    *["🏳️\u200d🌈", "\u200d", "\ufeff", "\u202eabc\u202c", "ש\u05c1\u05b8", "\U0010ffff", "\u2028", "ǅ", "ﬁ"],
]
TEXTS = st.lists(st.one_of(st.sampled_from(HARD_PARTS), st.text(max_size=4), st.just(" ")), max_size=12).map("".join)
# Whole and broken characters of every length, overlong forms, surrogates, and what never occurs.
HARD_BYTES = bytes.fromhex("41 7f 80 98 9f a0 bf c0 c3 e0 e2 ed ef f0 f4 f5 ff")


class Pair:
    """A tokenizer, and a library of its own from the same file to compare with."""

    def __init__(self, library: Library) -> None:
        self.library = Library.from_str(library.to_str())
        self.tokenizer = Tokenizer(library)
        byte_ids = [i for i in self._all_ids() if self.tokenizer.token_bytes(i) in {bytes([b]) for b in HARD_BYTES}]
        parts = st.one_of(
            TEXTS.map(self.tokenizer.encode),
            st.lists(st.sampled_from(byte_ids or self._all_ids()), min_size=1, max_size=6),
            st.lists(st.sampled_from(self._all_ids()), max_size=6),
        )
        self.ids = st.lists(parts, max_size=4).map(lambda parts: [i for part in parts for i in part])
        self.texts = TEXTS
        self.kept_texts = TEXTS if isinstance(library.decoder, decoders.ByteLevel) else TEXTS.map(self._keep)

    @staticmethod
    def _keep(text: str) -> str:
        """Without what the families of U+2581 do not give back: itself, special tokens, spaces at the start."""
        return text.replace("▁", "_").replace("</s>", "").lstrip(" ")

    def _all_ids(self) -> list[int]:
        return sorted(self.library.get_vocab().values())


@pytest.fixture(scope="session", params=CONCATENATING)
def concatenating(request: pytest.FixtureRequest) -> Pair:
    return Pair(CONCATENATING[request.param]())


@pytest.fixture(scope="session", params=NEIGHBOURLY)
def neighbourly(request: pytest.FixtureRequest) -> Pair:
    return Pair(NEIGHBOURLY[request.param]())


@pytest.fixture(scope="session")
def gpt2_like() -> Pair:
    return Pair(byte_level())


@pytest.fixture(scope="session")
def llama_like() -> Pair:
    return Pair(byte_fallback())


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Any text, with what is hard in it more often than chance has it."""
    return TEXTS


@pytest.fixture(scope="session")
def cut() -> Callable[[st.DataObject, Sequence[int]], list[list[int]]]:
    """Cuts ids into parts at random places; a part may be empty."""

    def cut_ids(data: st.DataObject, ids: Sequence[int]) -> list[list[int]]:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6), label="cuts"))
        return [list(ids[start:end]) for start, end in pairwise([0, *cuts, len(ids)])]

    return cut_ids
