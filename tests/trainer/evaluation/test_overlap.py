import sys

import pytest
from rhapsode_trainer.errors import ConfigError
from rhapsode_trainer.evaluation.overlap import measure_overlap

REFERENCES = ["The cat sat on the mat and looked at the moon.", "It was a dark and stormy night in the old town."]


def test_the_reference_itself_is_100_and_other_text_near_0() -> None:
    same = measure_overlap(REFERENCES, REFERENCES)
    assert (same.bleu, same.chrf) == (pytest.approx(100), pytest.approx(100))
    other = measure_overlap(["zzz", "qqq"], REFERENCES)
    assert other.bleu < 1
    assert other.chrf < 5


def test_the_signature_says_how_it_was_computed() -> None:
    overlap = measure_overlap(REFERENCES, REFERENCES[::-1])
    assert "tok:13a" in overlap.bleu_signature
    assert "version:" in overlap.bleu_signature
    assert "nc:6" in overlap.chrf_signature
    assert 0 < overlap.bleu < overlap.chrf < 20, "chrF gives credit for shared letters"


def test_as_many_texts_as_references() -> None:
    for texts, references in (([], []), (["a"], REFERENCES)):
        with pytest.raises(ValueError, match="references"):
            measure_overlap(texts, references)


def test_without_sacrebleu_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ConfigError, match=r"pip install 'rhapsode-trainer\[stories\]'"):
        measure_overlap(REFERENCES, REFERENCES)
