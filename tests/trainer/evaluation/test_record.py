import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.evaluation.quality import measure_form, measure_quality
from rhapsode_trainer.evaluation.record import (
    Measured,
    documents_sha256,
    flatten,
    likelihoods_record,
    model_record,
    parse_likelihoods,
)
from rhapsode_trainer.evaluation.scores import Likelihood, total

PARTS = [Likelihood(nats=10.0, tokens=4, bytes=12), Likelihood(nats=20.0, tokens=9, bytes=30)]


def test_numbers_of_a_model() -> None:
    measured = Measured(documents=PARTS, canary=PARTS[0], quality=measure_quality(["a b"]), form=measure_form(["a b"]))
    record = json.loads(json.dumps(model_record(measured), allow_nan=False))
    assert record["bits_per_byte"] == pytest.approx(30 / math.log(2) / 42)
    assert record["perplexity"] == pytest.approx(math.exp(30 / 13))
    assert record["bits_per_byte_interval"]["estimate"] == pytest.approx(record["bits_per_byte"])
    assert record["canary_bits_per_byte"] == pytest.approx(10 / math.log(2) / 12)
    assert (record["quality"]["words"], record["form"]["lines"], record["overlap"]) == (2, 1, None)


def test_what_is_not_finite_is_null() -> None:
    record = model_record(Measured(documents=[*PARTS, Likelihood(nats=math.nan, tokens=1, bytes=1)]))
    json.dumps(record, allow_nan=False)
    assert record["bits_per_byte"] is record["nats"] is record["bits_per_byte_interval"]["low"] is None
    assert (record["tokens"], record["bytes"]) == (14, 43)


def test_likelihoods_survive_json() -> None:
    parts = [*PARTS, Likelihood(nats=math.nan, tokens=1, bytes=1)]
    text = json.dumps(likelihoods_record("abc", parts), allow_nan=False)
    documents, again = parse_likelihoods(json.loads(text))
    assert (documents, again[:2]) == ("abc", PARTS)
    assert math.isnan(total(again).nats)


TEXTS = st.lists(st.builds(Document, text=st.text(), prompt=st.text()), max_size=4)


@given(TEXTS, TEXTS)
def test_the_hash_is_that_of_the_documents(first: list[Document], second: list[Document]) -> None:
    assert (documents_sha256(first) == documents_sha256(second)) is (first == second)
    assert documents_sha256(first) == documents_sha256(replace(document, where="elsewhere") for document in first)


def test_flattened_names_are_those_of_set() -> None:
    tree = {"a": 1, "b": {"c": {"d": [2]}, "e": {}}}
    assert flatten(tree) == {"a": 1, "b.c.d": [2], "b.e": {}}
