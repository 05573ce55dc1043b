"""Entry point: what goes wrong becomes one line on stderr and an exit code."""

import sys

from rhapsode_contract.model_directory import ModelDirectoryError

from .cli import app
from .errors import TrainerError


def main() -> None:
    """Runs the command line. A traceback appears only for a bug."""
    try:
        app()
    except TrainerError as error:
        sys.stderr.write(f"rhapsode-train: {error}\n")
        sys.exit(error.exit_code)
    except ModelDirectoryError as error:
        sys.stderr.write(f"rhapsode-train: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
