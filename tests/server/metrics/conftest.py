import pytest
from rhapsode_server.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()
