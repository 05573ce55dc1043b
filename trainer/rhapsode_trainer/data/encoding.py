"""From documents to token ids, in parallel on all cores and kept for the next run."""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

from .assembly import Document
from .cache import TokenCache
from .settings import RowsConfig

_DOCUMENTS_AT_A_TIME = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The ids of one document: the end-of-text token, the prompt, the text, and the end-of-text token again.

    `ids[first_target:]` carry the loss, so the last end-of-text is learned; `first_target` is at least 1.
    """

    ids: Sequence[int]
    first_target: int


def encode_documents(
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    config: RowsConfig,
    *,
    end_of_text: int,
    cache: Path | None = None,
    dropout: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> list[Encoded]:
    """One Encoded for each document. `check` is called now and then and may raise.

    Prompt and text are encoded apart: when the model is served, it is given the ids of the prompt alone. With the
    folder `cache`, the ids are taken from there if texts, tokenizer, parameters and code are the same. `dropout` skips
    merges at random, each time anew; nothing is cached then. Raises ConfigError if the cache cannot be written.
    """
    own = _copy(tokenizer, dropout)
    if cache is None or dropout:
        return _encode_all(own, documents, config, end_of_text, check)
    store = TokenCache(cache, _key(own, documents, config, end_of_text))
    found = store.load()
    if found is not None:
        return [Encoded(ids=ids, first_target=first) for ids, first in found]
    encoded = _encode_all(own, documents, config, end_of_text, check)
    store.save([(document.ids, document.first_target) for document in encoded])
    return encoded


def _copy(tokenizer: Tokenizer, dropout: float) -> Tokenizer:
    """A tokenizer of a model folder may cut or pad what it encodes; this one does neither."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    if hasattr(own.model, "dropout"):
        own.model.dropout = dropout or None
    return own


def _encode_all(
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    config: RowsConfig,
    end_of_text: int,
    check: Callable[[], None],
) -> list[Encoded]:
    encoded = []
    for start in range(0, len(documents), _DOCUMENTS_AT_A_TIME):
        check()
        some = documents[start : start + _DOCUMENTS_AT_A_TIME]
        pairs = chain.from_iterable((_prompt(document, config), document.text) for document in some)
        encodings = tokenizer.encode_batch(list(pairs), add_special_tokens=False)
        for prompt, text in zip(encodings[::2], encodings[1::2], strict=True):
            first = 1 + len(prompt.ids) if config.loss_on == "story" else 1
            ids = array("i", [end_of_text, *prompt.ids, *text.ids, end_of_text])
            encoded.append(Encoded(ids=ids, first_target=first))
    return encoded


def _prompt(document: Document, config: RowsConfig) -> str:
    return document.prompt + config.separator if document.prompt else ""


def _key(tokenizer: Tokenizer, documents: Sequence[Document], config: RowsConfig, end_of_text: int) -> str:
    """Hash of all that decides the ids: this code and the library's version are part of it."""
    digest = hashlib.sha256()
    parameters = (tokenizers.__version__, config.loss_on, config.separator, str(end_of_text), tokenizer.to_str())
    texts = chain.from_iterable((document.prompt, document.text) for document in documents)
    for text in chain((_code_version(),), parameters, texts):
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def _code_version() -> str:
    sources = (Path(__file__), Path(__file__).with_name("cache.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
