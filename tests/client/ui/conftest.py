"""The playground as a person starts it, and a browser to look at it."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rhapsode_contract.model_directory import Intervention, ModelDirectory
from support.publishing import publish_model
from support.servers import ServerProcess, running_server
from support.tiny_models import tiny_model

# A parent in the background may have SIGINT ignored, which children inherit.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from rhapsode_client.cli.app import main; main()"
)
PATIENCE_MS = 60_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class PlaygroundProcess:
    """`rhapsode ui` on any free port."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START, "ui", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.announcement = self.process.stderr.readline()
        match = re.search(r"http://\S+", self.announcement)
        self.url = match[0] if match else ""

    def interrupt(self) -> tuple[int, str]:
        """What Ctrl-C does: the exit code, and what was said since the announcement."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two versions of a model, both loaded, with room for long texts."""
    root: Path = tmp_path_factory.mktemp("served")
    for seed in (1, 2):
        publish_model(root, "poems", tiny_model("gpt2", seed=seed, n_positions=16_384))
    folder = ModelDirectory(root).model("poems")
    folder.set_traffic({1: 0, 2: 1}, lease=Intervention(), actor="test", reason="both stay loaded")
    with running_server(root, "--threads", "1", "--standby", "off") as server:
        server.wait_serving("model/poems")
        server.wait_log("poems version 1: ready")
        yield server


@pytest.fixture(scope="session")
def playground(serving: ServerProcess) -> Iterator[PlaygroundProcess]:
    started = PlaygroundProcess("--address", serving.address)
    yield started
    started.close()


@pytest.fixture
def start_playground() -> Iterator[Callable[..., PlaygroundProcess]]:
    """Starts others."""
    with ExitStack() as stack:

        def start(*arguments: str) -> PlaygroundProcess:
            started = PlaygroundProcess(*arguments)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window. As long as it is there, no other event loop runs in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = driver.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, playground: PlaygroundProcess) -> Iterator[Any]:
    """A new tab with the playground in it."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=playground.url)
        context.set_default_timeout(PATIENCE_MS)
        tab = context.new_page()
        yield tab
