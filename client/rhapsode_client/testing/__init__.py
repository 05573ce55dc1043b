"""A server for the unit tests of your service: in your process, on a free port, answering what you script.

    from rhapsode_client import Client, Unavailable
    from rhapsode_client.testing import FakeServer

    with FakeServer() as server, Client(server.address) as client:
        server.reply("and sails are set", prompt="The sea")
        server.fail(Unavailable("loading"), prompt="The moon")
        assert client.generate("The sea", seed=7).text == "and sails are set"
        assert server.requests[0].sampling.seed == 7

It speaks the real wire contract, so that clients of any language can be tested with it; it has no model, and checks
nothing of what a request asks.
"""

from rhapsode_client.testing.calls import Call
from rhapsode_client.testing.server import FakeServer

__all__ = ["Call", "FakeServer"]
