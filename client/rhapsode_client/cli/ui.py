"""`rhapsode ui`: the playground, a web page."""

import webbrowser
from importlib.util import find_spec
from typing import Annotated

import typer

from rhapsode_client import Client
from rhapsode_client.cli.failures import ExitCode, connected
from rhapsode_client.cli.target import Target
from rhapsode_client.cli.terminal import note


def ui(
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Where the page listens. Whoever reaches it uses the server as you.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="The port of the page. 0: any free one.")
    ] = 7860,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    *,
    target: Target,
) -> None:
    """Try models on a web page.

    Prompt, parameters, two versions side by side, token probabilities. Runs until Ctrl-C.
    It needs more packages: pip install "rhapsode-client[ui]"
    """
    if find_spec("nicegui") is None:
        note('rhapsode: the playground needs more packages: pip install "rhapsode-client[ui]"')
        raise typer.Exit(ExitCode.FAILED)
    # Settings that no client could use are refused before the page listens.
    with connected(target) as client:
        _serve(host, port, client, target, open_browser=open_browser)


def _serve(host: str, port: int, client: Client, target: Target, *, open_browser: bool) -> None:
    from rhapsode_client.ui import serve

    try:
        listening = serve.listen(host, port)
    except OSError as error:
        note(f"rhapsode: --host, --port: cannot listen on {host}:{port}: {error.strerror}")
        raise typer.Exit(ExitCode.FAILED) from None
    url = serve.url(listening)

    def announce() -> None:
        note(f"playground for the server at {client.address}: {url} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(url)

    serve.serve(listening, target, announce)
