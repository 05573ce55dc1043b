"""What tests of the server share."""

from collections.abc import Iterator

import pytest
from support.logs import ServerLog, logging_as_the_server


@pytest.fixture
def server_log(request: pytest.FixtureRequest) -> Iterator[ServerLog]:
    """The log of this process, as JSON. Its parameter: whether it shows what callers send."""
    with logging_as_the_server(shows_content=getattr(request, "param", False)) as log:
        yield log
