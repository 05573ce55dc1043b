"""`rhapsode-serve`, or `python -m rhapsode_server`: see --help."""

import asyncio
import os
import sys
from collections.abc import Sequence

from rhapsode_server.config import load_config
from rhapsode_server.logs import configure_logging
from rhapsode_server.models.registry import ModelRegistry
from rhapsode_server.rpc.app import serve
from rhapsode_server.rpc.server import CannotListen


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Exit codes: 0 stopped, 2 bad configuration or an address in use."""
    config = load_config(sys.argv[1:] if arguments is None else arguments, os.environ)
    configure_logging(config.log_format)
    try:
        asyncio.run(serve(config, ModelRegistry))
    except CannotListen as error:
        print(f"rhapsode-serve: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
