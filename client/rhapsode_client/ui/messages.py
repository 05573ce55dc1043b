"""Errors and figures in the words that the page shows."""

from collections.abc import Mapping
from typing import NamedTuple

from rhapsode_client import Completion, FinishReason, errors

_ENDINGS: Mapping[FinishReason, str] = {
    FinishReason.LENGTH: "as many tokens as asked for",
    FinishReason.EOS: "the model ended it",
    FinishReason.STOP_STRING: "a stop text",
    FinishReason.STOP_TOKEN: "a stop token",
    FinishReason.CONTEXT_FULL: "the context is full",
    FinishReason.TIME_LIMIT: "the time limit",
}


class Message(NamedTuple):
    """What went wrong, and what to do or to quote."""

    title: str
    text: str


def explained(error: errors.RhapsodeError, address: str) -> Message:
    """A failure as a person wants to be told."""
    title, text = _told(error, address)
    parts = [text, f"Request id: {error.request_id}" if error.request_id else ""]
    return Message(title, "\n".join(part for part in parts if part))


def _told(error: errors.RhapsodeError, address: str) -> Message:
    match error:
        case errors.InvalidRequest(violations=[_, *_] as violations):
            return Message("The server does not accept this", "\n".join(f"{each[0]}: {each[1]}" for each in violations))
        case errors.Unavailable(retry_after=None):
            return Message(
                f"No server answers at {address}", "Start one with: rhapsode-serve --models ./models\nThen ask again."
            )
        case errors.Retryable(retry_after=None):
            return Message("The server cannot take this now", str(error))
        case errors.Retryable(retry_after=seconds):
            return Message("The server cannot take this now", f"{error}\nTry again in {seconds:g} s.")
        case errors.DeadlineExceeded():
            return Message(
                "It took longer than allowed", "rhapsode ui --timeout SECONDS says how long a call may take."
            )
        case errors.Unauthenticated():
            return Message("The server asks who you are", "Start rhapsode ui with RHAPSODE_TOKEN set.")
        case errors.NotFound():
            return Message("There is no such version on the server", str(error))
    return Message("The server failed", str(error))


def ending(completion: Completion) -> str:
    """Why it ended."""
    return _ENDINGS.get(completion.finish_reason, completion.finish_reason.value)


def figures(completion: Completion) -> str:
    """What it took."""
    usage, timings = completion.usage, completion.timings
    found = [f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"]
    if timings.first_token is not None:
        found.append(f"first after {timings.first_token * 1000:.0f} ms")
    found.append(f"all after {timings.total:.2f} s")
    if timings.total > 0:
        found.append(f"{usage.completion_tokens / timings.total:.0f} tokens/s")
    return " \u00b7 ".join(found)
