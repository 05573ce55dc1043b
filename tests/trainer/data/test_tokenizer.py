from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data.tokenizer import END_OF_TEXT, train_tokenizer


def test_the_tokenizer_learns_from_the_training_texts_alone() -> None:
    train, held_out = ["banana bandana"] * 50, ["xylophone xylophone"] * 500
    tokenizer = train_tokenizer(train, 270)
    assert len(tokenizer.tokenize("banana")) == 1
    assert len(tokenizer.tokenize(held_out[0])) == len(held_out[0]), "no merge of the held-out text was learned"


@given(st.text())
def test_any_text_survives_encoding(text: str) -> None:
    ids = _TOKENIZER.encode(text, add_special_tokens=False)
    assert _TOKENIZER.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_end_of_text_token_is_one_token_that_no_text_contains_by_accident() -> None:
    assert _TOKENIZER.eos_token == _TOKENIZER.bos_token == END_OF_TEXT
    assert _TOKENIZER.eos_token_id == 0
    assert 0 not in _TOKENIZER.encode("< | endoftext | >", add_special_tokens=False)


_TOKENIZER = train_tokenizer(["the thing that there is then"] * 20, 280)
