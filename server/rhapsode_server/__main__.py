"""`rhapsode-serve`, or `python -m rhapsode_server`: see --help."""

import asyncio
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path

from rhapsode_server.config import ServerConfig, load_config
from rhapsode_server.errors import CannotStart
from rhapsode_server.logs import configure_logging
from rhapsode_server.models.registry import ModelRegistry
from rhapsode_server.rpc.app import serve
from rhapsode_server.termination import note_termination

logger = logging.getLogger("rhapsode")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Exit codes: 0 stopped, 2 what the settings ask cannot be done, 1 a failure."""
    config = _config(sys.argv[1:] if arguments is None else arguments)
    configure_logging(config.log_format, shows_content=config.log_prompts)
    try:
        asyncio.run(serve(config, ModelRegistry))
    except CannotStart as error:
        print(f"rhapsode-serve: {error}", file=sys.stderr)
        note_termination(config.termination_log, f"rhapsode-serve: {error}")
        return 2
    except Exception as error:
        logger.critical("the server failed", exc_info=error)
        note_termination(config.termination_log, f"rhapsode-serve failed: {type(error).__name__}: {error}")
        return 1
    return 0


def _config(arguments: Sequence[str]) -> ServerConfig:
    """Exits with 2 where it is wrong."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return load_config(arguments, os.environ)
    except SystemExit as end:
        sys.stderr.write(said.getvalue())
        if end.code:
            note_termination(_termination_log(arguments), said.getvalue())
        raise


def _termination_log(arguments: Sequence[str]) -> Path:
    """Where settings cannot be read as a whole, this one is looked for alone."""
    flag, default = "--termination-log", os.environ.get("RHAPSODE_TERMINATION_LOG") or "/dev/termination-log"
    split = [value for before, value in pairwise(arguments) if before == flag]
    joined = [each.partition("=")[2] for each in arguments if each.startswith(f"{flag}=")]
    return Path([default, *split, *joined][-1])


if __name__ == "__main__":
    sys.exit(main())
