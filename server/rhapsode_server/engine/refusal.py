"""Why a model cannot be run here, or a constraint not be followed. Imports no torch."""

from rhapsode_server.printable import printable

UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
NON_FINITE_LOGITS = "non_finite_logits"
CANARY_OFF = "canary_off"
NO_ANSWER = "no_answer"
LOAD_FAILED = "load_failed"
LOAD_TIMEOUT = "load_timeout"
OUT_OF_MEMORY = "out_of_memory"
TOO_LARGE = "too_large"
TOKENIZER_MISMATCH = "tokenizer_mismatch"

# The last is oneDNN's: the layers that it is asked for were made before, so that all it can lack is room.
_OUT_OF_MEMORY_SIGNS = (
    *("out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED"),
    "could not create a primitive",
)


class ModelRefused(Exception):  # noqa: N818 - it says what happened
    """`reason` is one word that operators can act on, for example `unsupported_architecture`; `detail` says more,
    on one line that can be printed whatever names and values of files it quotes."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = printable(detail)
        super().__init__(f"{reason}: {self.detail}")


class ConstraintsBusy(Exception):  # noqa: N818 - it says what happened
    """Too many constraints wait to be prepared: try again later."""


class BadConstraint(Exception):  # noqa: N818 - it says what happened
    """`detail` is one clear sentence that says what is wrong with it; `bug` is there if something else is wrong."""

    def __init__(self, detail: str, bug: BaseException | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.bug = bug


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host: torch says so in errors of several kinds."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in _OUT_OF_MEMORY_SIGNS)
    return isinstance(error, MemoryError)
