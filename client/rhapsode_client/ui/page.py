"""One browser tab: a prompt, the settings, and one or two answers beside each other."""

import asyncio
import secrets
from pathlib import Path

from nicegui import ui

from rhapsode_client import AsyncClient, RhapsodeError
from rhapsode_client.connection import Connection
from rhapsode_client.ui.form import Form
from rhapsode_client.ui.messages import explained
from rhapsode_client.ui.panel import Panel
from rhapsode_client.ui.versions import choices, to_compare

STYLE = Path(__file__).with_name("playground.css")
REFRESH_SECONDS = 5.0
MAX_DRAWN_SEED = 1_000_000
"""Short enough to be read out."""
FIRST_PROMPT = "The moon upon the sea"


class Playground:
    """What one person sees and does."""

    def __init__(self, client: AsyncClient, connection: Connection) -> None:
        self._client = client
        self._connection = connection
        self._has_looked = False
        ui.add_css(STYLE)
        ui.colors(primary="#3f4a8a")
        with ui.element("header").classes("top"):
            ui.html("<b>Rhapsode</b> playground", sanitize=False).classes("name")
            self._server = ui.label(connection.address).classes("server")
        with ui.element("main").classes("desk"):
            with ui.element("aside").classes("settings"):
                self._form = Form()
            with ui.element("div").classes("work"):
                self._build_prompt()
                with ui.element("div").classes("panels"):
                    self._panels = [Panel(connection, self._form.keep_seed) for _ in range(2)]
                ui.html(_LEGEND, sanitize=False)
        self._compare.bind_value_to(self._panels[1].card, "visible")

    async def refresh(self) -> None:
        """Looks which versions there are."""
        try:
            found = choices(await self._client.models(timeout=REFRESH_SECONDS))
        except RhapsodeError as error:
            self._server.text = explained(error, self._connection.address).title
            self._server.classes(add="lost")
            return
        self._server.text = self._connection.address
        self._server.classes(remove="lost")
        pair = to_compare(list(found))
        if not self._has_looked:
            self._has_looked, self._compare.value = True, pair is not None
        for index, panel in enumerate(self._panels):
            panel.offer(found, pair[index] if pair else next(iter(found)))

    async def generate(self) -> None:
        """Asks the panels that are shown, all with the same seed."""
        if not self._generate.enabled:
            return
        try:
            options = self._form.options()
        except ValueError as error:
            ui.notify(str(error), type="warning")
            return
        panels = self._panels if self._compare.value else self._panels[:1]
        if len(panels) > 1:
            options.setdefault("seed", secrets.randbelow(MAX_DRAWN_SEED))
        self._set_busy(True)
        try:
            await asyncio.gather(*(panel.run(self._client, self._prompt.value, options) for panel in panels))
        finally:
            self._set_busy(False)

    def stop(self) -> None:
        """Ends what is under way."""
        for panel in self._panels:
            panel.stop()

    def _build_prompt(self) -> None:
        with ui.element("div").classes("ask"):
            self._prompt = ui.textarea("prompt", value=FIRST_PROMPT).props("autogrow borderless").classes("prompt")
            self._prompt.on("keydown.ctrl.enter", self.generate).on("keydown.meta.enter", self.generate)
            with ui.element("div").classes("actions"):
                self._compare = ui.switch("compare two versions", value=False)
                ui.space()
                self._stop = ui.button("stop", icon="stop", on_click=self.stop).props("flat no-caps")
                self._generate = ui.button("generate", icon="play_arrow", on_click=self.generate)
                self._generate.props("unelevated no-caps").tooltip("Ctrl+Enter")
        self._stop.disable()

    def _set_busy(self, is_busy: bool) -> None:
        self._generate.set_enabled(not is_busy)
        self._stop.set_enabled(is_busy)


_LEGEND = """\
<div class="legend">likely <span class="scale"></span> surprising
<span class="aside">Hover over a token to see what else might have stood there.</span></div>"""


def build(client: AsyncClient, connection: Connection) -> None:
    """The page of a tab that has just been opened. What is under way ends when it is closed."""
    playground = Playground(client, connection)
    ui.context.client.on_disconnect(playground.stop)
    ui.timer(REFRESH_SECONDS, playground.refresh)
