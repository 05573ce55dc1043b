"""Entry point: what goes wrong becomes one line on stderr and an exit code."""

import sys
from typing import NoReturn

from rhapsode_contract.model_directory import ModelDirectoryError

from .cli import app
from .errors import TrainerError
from .termination import note_termination


def main() -> None:
    """Runs the command line. A traceback appears only for a bug."""
    try:
        app()
    except TrainerError as error:
        _end(error, error.exit_code)
    except ModelDirectoryError as error:
        _end(error, 1)
    except Exception as error:
        note_termination(f"rhapsode-train failed: {type(error).__name__}: {error}")
        raise


def _end(error: Exception, exit_code: int) -> NoReturn:
    sys.stderr.write(f"rhapsode-train: {error}\n")
    note_termination(f"rhapsode-train: {error}")
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
