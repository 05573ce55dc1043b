"""One answer: which version gives it, its text as it is produced, and what it took."""

from collections.abc import Callable, Mapping
from html import escape
from itertools import accumulate
from time import monotonic

from nicegui import ui

from rhapsode_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    GenerateOptions,
    RhapsodeError,
    TokenLogprob,
)
from rhapsode_client.connection import Connection
from rhapsode_client.ui import messages, snippets
from rhapsode_client.ui.tokens import Piece, Pieces, as_html
from rhapsode_client.ui.versions import Choice

CANDIDATES = 6
"""How many of the likeliest tokens a tooltip shows."""
REDRAW_SECONDS = 0.05
"""A browser cannot follow every token of a fast model."""


class Panel:
    """A card of the page. `keep_seed` is told a seed that is to be used again."""

    def __init__(self, connection: Connection, keep_seed: Callable[[int], None]) -> None:
        self._connection = connection
        self._keep_seed = keep_seed
        self._stream: AsyncStream | None = None
        self._call: snippets.Call | None = None
        self._seed = 0
        with ui.element("section").classes("panel") as self.card:
            with ui.element("div").classes("panel-head"):
                self._choice = ui.select({}, label="version").props("dense borderless options-dense")
                self._code = ui.button("copy as", icon="content_copy", on_click=self._show_code)
                self._code.props("flat dense no-caps size=sm").set_visibility(False)
            self._failure = ui.element("div").classes("failure").props('role="alert"')
            self._failure.set_visibility(False)
            self._output = ui.element("div").classes("output").props('aria-live="polite"')
            with ui.element("div").classes("panel-foot"):
                self._who = ui.label().classes("who")
                self._pin = ui.button(icon="push_pin", on_click=lambda: self._keep_seed(self._seed))
                self._pin.props("flat dense round size=xs").tooltip("Use this seed again").set_visibility(False)
                self._ending = ui.label().classes("ending")
                self._figures = ui.label().classes("figures")

    @property
    def choice(self) -> Choice:
        """The version that is chosen."""
        return self._choice.value or Choice()

    def offer(self, choices: Mapping[Choice, str], preferred: Choice) -> None:
        """What can be chosen. A choice that is no longer there becomes `preferred`."""
        if self._choice.options != choices:
            chosen = self.choice if self.choice in choices else preferred
            self._choice.set_options(dict(choices), value=chosen)

    async def run(self, client: AsyncClient, prompt: str, options: GenerateOptions) -> None:
        """Shows the answer to `prompt` as it comes; failures are shown too."""
        self._clear(prompt)
        asked = GenerateOptions(model=self.choice.model, version=self.choice.version) | options
        self._note_call(prompt, asked)
        shown = _Output(self._output)
        try:
            with_odds = asked | GenerateOptions(logprobs=True, top_logprobs=CANDIDATES)
            async with client.stream(prompt, **with_odds) as self._stream:
                async for delta in self._stream:
                    shown.add(delta.logprobs)
                    self._tell_who(self._stream)
                self._tell_who(self._stream)
                completion = await self._stream.result()
            shown.end()
            shown.cut(len(completion.text))
            self._ending.text = messages.ending(completion)
            self._figures.text = messages.figures(completion)
        except Cancelled:
            self._ending.text = "stopped"
        except RhapsodeError as error:
            self._fail(error)
        finally:
            shown.end()
            self._output.classes(remove="streaming")
            self._stream = None

    def stop(self) -> None:
        """Ends the answer under way, if there is one; what is there stays."""
        if self._stream is not None:
            self._stream.cancel()

    def _clear(self, prompt: str) -> None:
        self._output.clear()
        with self._output:
            ui.html(escape(prompt), sanitize=False, tag="span").classes("asked")
        self._output.classes(add="streaming")
        for element in (self._failure, self._pin, self._code):
            element.set_visibility(False)
        self._who.text = self._ending.text = self._figures.text = ""

    def _note_call(self, prompt: str, options: GenerateOptions) -> None:
        self._call = snippets.Call(connection=self._connection, prompt=prompt, options=options)

    def _tell_who(self, stream: AsyncStream) -> None:
        """Once it is known who answers, and with which seed, the code to copy says so too."""
        started = stream.started
        if started is None or self._who.text or self._call is None:
            return
        self._who.text = f"{started.model} {started.version} \u00b7 seed {started.seed}"
        self._seed = started.seed
        for element in (self._pin, self._code):
            element.set_visibility(True)
        exactly = GenerateOptions(model=started.model, version=started.version, seed=started.seed)
        self._note_call(self._call.prompt, self._call.options | exactly)

    def _fail(self, error: RhapsodeError) -> None:
        told = messages.explained(error, self._connection.address)
        self._failure.clear()
        with self._failure:
            ui.label(told.title).classes("failure-title")
            ui.label(told.text).classes("failure-text")
        self._failure.set_visibility(True)

    def _show_code(self) -> None:
        assert self._call is not None
        forms = {"CLI": snippets.command_line, "Python": snippets.python, "grpcurl": snippets.grpcurl}
        with ui.dialog(value=True) as dialog, ui.card().classes("code"):
            with ui.tabs().props("dense no-caps align=left") as tabs:
                for name in forms:
                    ui.tab(name)
            with ui.tab_panels(tabs, value="CLI").classes("w-full"):
                for name, written in forms.items():
                    with ui.tab_panel(name):
                        ui.code(written(self._call), language="python" if name == "Python" else "bash")
        dialog.on("hide", dialog.delete)


class _Output:
    """The text of one answer, token by token."""

    def __init__(self, container: ui.element) -> None:
        self._container = container
        self._pieces = Pieces()
        self._waiting: list[Piece] = []
        self._shown: list[tuple[list[Piece], ui.html]] = []
        self._shown_at = -REDRAW_SECONDS

    def add(self, tokens: tuple[TokenLogprob, ...]) -> None:
        """What the model has just produced."""
        self._waiting += self._pieces.take(tokens)
        if monotonic() - self._shown_at >= REDRAW_SECONDS:
            self._show()

    def end(self) -> None:
        """Shows what has come and was not shown yet."""
        self._waiting += self._pieces.rest()
        self._show()

    def cut(self, length: int) -> None:
        """Strikes out what comes after so many characters: the stop, which is no part of the text."""
        start = 0
        for pieces, element in self._shown:
            starts = list(accumulate((len(piece.text) for piece in pieces), initial=start))
            if starts[-2] >= length:
                element.content = "".join(
                    as_html(piece, is_cut=at >= length) for piece, at in zip(pieces, starts, strict=False)
                )
            start = starts[-1]

    def _show(self) -> None:
        if not self._waiting:
            return
        with self._container:
            # What as_html returns is escaped.
            element = ui.html("".join(map(as_html, self._waiting)), sanitize=False, tag="span")
        self._shown.append((self._waiting, element))
        self._waiting, self._shown_at = [], monotonic()
