"""The reasons that people and programs are told."""

from rhapsode_server.engine.refusal import ModelRefused


def test_a_reason_can_be_printed_and_sent_whatever_it_quotes() -> None:
    refused = ModelRefused("foreign_file", "\udcff\x1b[2J\n: not listed")
    assert refused.detail == r"\udcff\x1b[2J\n: not listed"
    assert str(refused).encode() == rb"foreign_file: \udcff\x1b[2J\n: not listed"
    again = ModelRefused(refused.reason, refused.detail)
    assert again.detail == refused.detail


def test_ordinary_text_stays() -> None:
    assert ModelRefused("load_failed", "G\u00f6the \\ 'x'").detail == "G\u00f6the \\ 'x'"
