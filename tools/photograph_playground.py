"""Takes docs/images/playground.png: `rhapsode ui` in headless Chromium, with a server that has two versions.

python tools/photograph_playground.py 127.0.0.1:50051 docs/images/playground.png --prompt "The moon upon the sea"
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Error, Page, ViewportSize, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = ViewportSize(width=1360, height=800)
ANIMATIONS_MS = 800


@contextmanager
def playground(address: str) -> Iterator[str]:
    """The URL of one that runs meanwhile."""
    command = [str(Path(sys.executable).with_name("rhapsode")), "ui", "--port", "0", "--address", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        announced = process.stderr.readline()
        match = re.search(r"http://\S+", announced)
        if match is None:
            raise OSError(announced.strip())
        try:
            yield match[0]
        finally:
            process.terminate()


def ask(page: Page, prompt: str, settings: Mapping[str, str]) -> None:
    """Two answers, whole."""
    page.get_by_role("switch", checked=True).wait_for()
    for label, value in settings.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("prompt").fill(prompt)
    page.get_by_role("button", name="generate").click()
    for panel in range(2):
        page.locator(".figures").nth(panel).filter(has_text="tokens/s").wait_for()


def hover(page: Page, words: str) -> None:
    """The mouse over the last token of `words`, where they first appear on the right."""
    pieces = page.locator(".panel").nth(1).locator(".piece")
    text = ""
    for index, piece in enumerate(pieces.evaluate_all("all => all.map(each => each.firstChild.textContent)")):
        text += piece
        if words in text:
            pieces.nth(index).hover()
            return
    raise OSError(f"the right answer holds no {words!r}, but {text!r}")


def photograph(browser: str, url: str, output: Path, prompt: str, settings: Mapping[str, str], words: str) -> None:
    """Raises OSError where the page does not come to what is asked for."""
    with sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = window.new_page(viewport=SIZE, device_scale_factor=1.5)
        page.goto(url)
        ask(page, prompt, settings)
        if words:
            hover(page, words)
        page.wait_for_timeout(ANIMATIONS_MS)
        page.screenshot(path=output)
        window.close()


def main() -> int:
    """Exit code 1: no server, no browser, or no such words."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("address", help="a server whose model has two versions loaded")
    parser.add_argument("output", type=Path, help="the .png to write")
    parser.add_argument("--prompt", default="The moon upon the sea")
    parser.add_argument("--seed", default="5")
    parser.add_argument("--temperature", default="0.7")
    parser.add_argument("--max-new-tokens", default="100")
    parser.add_argument("--hover", default="", help="words on the right whose last token shows its tooltip")
    given = parser.parse_args()
    settings = {"seed": given.seed, "temperature": given.temperature, "max new tokens": given.max_new_tokens}
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        if browser is None:
            raise OSError("it takes Chromium: install it")
        with playground(given.address) as url:
            photograph(browser, url, given.output, given.prompt, settings, given.hover)
    except (OSError, Error) as error:
        print(f"photograph_playground: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
