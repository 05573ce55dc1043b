from hypothesis import given
from hypothesis import strategies as st
from rhapsode_trainer.data.splitting import Part, is_held_out, part_of


@given(st.text(), st.text())
def test_the_side_of_a_document_depends_on_its_text_and_the_salt_alone(text: str, salt: str) -> None:
    assert is_held_out(text, 0.1, salt) == is_held_out(text, 0.1, salt)
    assert is_held_out(text, 0.3, salt) or not is_held_out(text, 0.1, salt), "a larger share only adds documents"


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.49))
def test_the_held_out_part_is_the_same_with_and_without_validation(text: str, share: float, validation: float) -> None:
    part = part_of(text, held_out=share, validation=validation, salt="")
    assert (part is Part.HELD_OUT) == is_held_out(text, share, "")
    assert validation > 0 or part is not Part.VALIDATION


def test_shares_are_about_as_large_as_they_are_said_to_be() -> None:
    parts = [part_of(f"text {number}", held_out=0.2, validation=0.1, salt="") for number in range(5000)]
    assert abs(parts.count(Part.HELD_OUT) - 1000) < 100
    assert abs(parts.count(Part.VALIDATION) - 500) < 75
