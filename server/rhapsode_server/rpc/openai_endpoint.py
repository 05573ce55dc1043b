"""The OpenAI-style endpoint where it is asked for; nothing of it is imported where it is not."""

from typing import TYPE_CHECKING

from rhapsode_server.config import ServerConfig
from rhapsode_server.errors import CannotStart
from rhapsode_server.metrics import Metrics
from rhapsode_server.models.served import Models
from rhapsode_server.rpc.access import Access
from rhapsode_server.rpc.counted import OUTCOME_LABELS
from rhapsode_server.rpc.health import HealthService
from rhapsode_server.rpc.reception import Reception

if TYPE_CHECKING:
    from rhapsode_server.rpc.openai.listener import Listener


def openai_listener(
    config: ServerConfig, models: Models, metrics: Metrics, health: HealthService, access: Access, reception: Reception
) -> "Listener | None":
    """Raises CannotStart where the extra `openai` is not installed, ValueError for certificates that cannot be used."""
    if config.openai_address is None:
        return None
    try:
        from rhapsode_server.rpc.openai.endpoint import METHODS, Endpoint
        from rhapsode_server.rpc.openai.listener import Listener
        from rhapsode_server.rpc.openai.service import OpenAiService
        from rhapsode_server.rpc.openai.tls import tls_context
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"--openai-address: needs aiohttp ({error.name} is not installed); "
            "install the server with it: pip install 'rhapsode-server[openai]'"
        ) from None
    metrics.expect_calls(METHODS, OUTCOME_LABELS)
    service = OpenAiService(models, metrics, config.default_max_new_tokens)
    endpoint = Endpoint(service, reception, access, health, refuses_pages=config.tokens_file is None)
    return Listener(endpoint, config, tls_context(config))
