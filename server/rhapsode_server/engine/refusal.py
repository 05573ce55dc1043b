"""Why a model cannot be run here, or a constraint not be followed. Imports no torch."""

UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
NON_FINITE_LOGITS = "non_finite_logits"
LOAD_FAILED = "load_failed"
OUT_OF_MEMORY = "out_of_memory"
TOKENIZER_MISMATCH = "tokenizer_mismatch"


class ModelRefused(Exception):  # noqa: N818 - it says what happened
    """`reason` is one word that operators can act on, for example `unsupported_architecture`; `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConstraintsBusy(Exception):  # noqa: N818 - it says what happened
    """Too many constraints wait to be prepared: try again later."""


class BadConstraint(Exception):  # noqa: N818 - it says what happened
    """`detail` is one clear sentence that says what is wrong with the constraint."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
