"""The settings of an interactive session and the commands that change them."""

from collections.abc import Callable, Mapping

from rhapsode_client import GenerateOptions

HELP = """\
Type a prompt to have it continued. Commands begin with a slash:
  /set                 show the settings
  /set NAME VALUE      change one: temperature, top_k, top_p, max_new_tokens, seed, stop, model, version
  /set NAME            back to the server's default
  /seed N              the same as /set seed N; /seed alone: a new one each time
  /model NAME          the same as /set model NAME
  /help                this text
  /quit                leave (so does Ctrl-D)
Ctrl-C stops the text under way."""

PARSERS: Mapping[str, Callable[[str], object]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "max_new_tokens": int,
    "seed": int,
    "stop": str,
    "model": str,
    "version": int,
}
"""The settings by name, and how a typed value is read."""


class Session:
    """What holds from one prompt to the next."""

    def __init__(self, options: GenerateOptions) -> None:
        self.options = options
        self.ended = False

    def command(self, line: str) -> str:
        """Carries out a line that begins with a slash; returns what to tell the person, or nothing."""
        name, _, argument = line.strip().removeprefix("/").partition(" ")
        match name:
            case "set":
                setting, _, value = argument.strip().partition(" ")
                return self._set(setting, value.strip()) if setting else self._shown()
            case "seed" | "model":
                return self._set(name, argument.strip())
            case "help":
                return HELP
            case "quit" | "exit":
                self.ended = True
                return ""
        return f"no such command: /{name}; /help lists them"

    def _set(self, name: str, value: str) -> str:
        if name not in PARSERS:
            return f"no such setting: {name}; there are {', '.join(PARSERS)}"
        settings = dict(self.options)
        settings.pop(name, None)
        try:
            chosen = {name: PARSERS[name](value)} if value else {}
        except ValueError:
            return f"{name} must be a number, not {value!r}"
        self.options = GenerateOptions(**{**settings, **chosen})  # type: ignore[typeddict-item]
        return ""

    def _shown(self) -> str:
        return "\n".join(f"{name} = {value}" for name, value in self.options.items()) or "every setting is the server's"
