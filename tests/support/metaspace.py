"""Tokenizers that spell a space as U+2581 and put one before every text: as Llama's file does, and as newer ones do."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

_WORDS = ["sun", "shine", "sunshine", "the", "sea", "é"]


def llama() -> Tokenizer:
    """The space comes from the normaliser."""
    tokenizer = Tokenizer(_model())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _decoder()
    return _with_special(tokenizer)


def metaspace() -> Tokenizer:
    """The space comes from the pre-tokeniser, unless the text begins with one."""
    tokenizer = Tokenizer(_model())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = _decoder()
    return _with_special(tokenizer)


def _model() -> models.BPE:
    """Each word, alone and behind a space, is a token that merges letter by letter; other characters are bytes."""
    merges = []
    for word in (*_WORDS, *(f"▁{word}" for word in _WORDS)):
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
    letters = sorted({letter for word in _WORDS for letter in word} | {"▁"})
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: token_id for token_id, piece in enumerate(dict.fromkeys(pieces))}
    return models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), byte_fallback=True, unk_token="<unk>")


def _decoder() -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer
