"""What a person sees and does, in headless Chromium, with a real server that has two versions of a model."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rhapsode_client import Client
from rhapsode_client.cli.app import app
from support.servers import ServerProcess
from typer.testing import CliRunner

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
expect = playwright.expect
expect.set_options(timeout=60_000)

PHOTOGRAPH = Path(__file__).parents[3] / "tools" / "photograph_playground.py"
WHO = re.compile(r"poems (\d+) \u00b7 seed (\d+)")


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    expect(page.get_by_role("switch")).to_be_checked()  # it has found two versions
    return page


def ask(page: Any, prompt: str, **settings: object) -> None:
    for name, value in settings.items():
        page.get_by_label(name.replace("_", " "), exact=True).fill(str(value))
    page.get_by_label("prompt").fill(prompt)
    page.get_by_label("prompt").press("Control+Enter")


def ask_without_end(page: Any) -> None:
    page.get_by_role("button", name="More").click()
    page.get_by_role("checkbox", name="go on at the end of the text").click()
    ask(page, "no end", max_new_tokens=16_000)


def answered(page: Any, panel: int) -> str:
    """The text of a panel once it is whole, without the prompt and the stop."""
    card = page.locator(".panel").nth(panel)
    expect(card.locator(".figures")).to_contain_text("tokens/s")
    texts = card.locator(".piece:not(.cut)").evaluate_all("all => all.map(each => each.firstChild.textContent)")
    return "".join(texts)


def served(serving: ServerProcess, prompt: str, **options: Any) -> str:
    with Client(serving.address) as client:
        return client.generate(prompt, **options).text


def legible(text: str) -> str:
    """What a page shows as it is: HTML has one end of a line and no NUL, which tiny models write too."""
    return re.sub("[\0\r\n\ufffd]", "", text)


def test_two_versions_answer_side_by_side_with_the_same_seed(page, playground, serving):
    opened(page, playground.url)
    ask(page, "the sea <b>", max_new_tokens=20, temperature=1)
    expected = []
    for panel, version in enumerate((1, 2)):
        text = answered(page, panel)
        found = WHO.search(page.locator(".panel").nth(panel).inner_text())
        assert found, page.locator(".panel").nth(panel).inner_text()
        expected.append((str(version), found[2]))
        assert found[1] == str(version)
        options = {"version": version, "seed": int(found[2]), "max_new_tokens": 20, "temperature": 1}
        assert legible(text) == legible(served(serving, "the sea <b>", **options))
    assert expected[0][1] == expected[1][1]
    expect(page.locator(".asked").first).to_have_text("the sea <b>")
    expect(page.locator(".ending").first).to_have_text(re.compile("as many tokens as asked for|the model ended it"))


def test_one_panel_is_enough_and_a_seed_can_be_kept(page, playground, serving):
    opened(page, playground.url)
    page.get_by_role("switch").click()
    expect(page.locator(".panel").nth(1)).to_be_hidden()
    ask(page, "stars", max_new_tokens=8, temperature=2)
    first = answered(page, 0)
    page.locator(".panel-foot button").first.click()
    seed = WHO.search(page.locator(".panel").first.inner_text())[2]
    expect(page.get_by_label("seed")).to_have_value(seed)
    page.get_by_role("button", name="generate").click()
    assert answered(page, 0) == first


def test_what_ended_a_text_is_struck_out(browser, start_playground, server, stream_of):
    started, text, finished = stream_of("the sea")
    for part in (b"the", b" se", b"a EN", b"D"):
        text.delta.logprobs.add(text=part, logprob=-1.0, rank=1)
    server.scripts["GenerateStream"] = [started, text, finished]
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(start_playground("--address", server.address).url)
        ask(page, "by")
        expect(page.locator(".ending").first).to_have_text("a stop text")
        assert answered(page, 0) == "the sea EN"
        assert page.locator(".piece.cut").evaluate_all("all => all.map(each => each.firstChild.textContent)") == ["D"]


def test_hovering_shows_what_else_might_have_stood_there(page, playground, serving):
    opened(page, playground.url)
    ask(page, "the sea", max_new_tokens=4, temperature=0, seed=7)
    answered(page, 1)
    with Client(serving.address) as client:
        options = {"version": 2, "temperature": 0, "max_new_tokens": 4, "logprobs": True, "top_logprobs": 6}
        token = client.generate("the sea", **options).logprobs[0]
    piece = page.locator(".panel").nth(1).locator(".piece").first
    expect(piece.locator(".odds")).to_be_hidden()
    piece.hover()
    expect(piece.locator(".odds")).to_be_visible()
    rows = piece.locator(".candidate")
    expect(rows).to_have_count(6 * piece.locator(".place").count())
    expect(rows.first).to_have_class("candidate chosen")
    assert f"rank 1, id {token.token_id}" in piece.inner_text()


def test_text_comes_as_it_is_produced_and_stop_ends_the_call(page, playground, serving):
    opened(page, playground.url)
    ask_without_end(page)
    expect(page.locator(".panel").nth(0).locator(".piece").nth(2)).to_be_visible()
    assert page.locator(".streaming").count() == 2
    page.get_by_role("button", name="stop", exact=True).click()
    for panel in range(2):
        expect(page.locator(".ending").nth(panel)).to_have_text("stopped")
    assert 3 <= page.locator(".panel").first.locator(".piece").count() < 16_000
    expect(page.get_by_role("button", name="generate")).to_be_enabled()
    expect(page.locator(".streaming")).to_have_count(0)
    for version in ("1", "2"):
        serving_ends(serving, version)


def test_closing_the_tab_ends_the_call(browser, playground, serving):
    context = browser.new_context()
    page = opened(context.new_page(), playground.url)
    ask_without_end(page)
    expect(page.locator(".panel").nth(0).locator(".piece").nth(2)).to_be_visible()
    context.close()
    for version in ("1", "2"):
        serving_ends(serving, version)


def test_ctrl_c_ends_it_while_a_text_is_produced(browser, start_playground, serving):
    started = start_playground("--address", serving.address)
    with browser.new_context() as context:
        page = opened(context.new_page(), started.url)
        ask_without_end(page)
        expect(page.locator(".panel").nth(0).locator(".piece").nth(2)).to_be_visible()
        assert started.interrupt() == (130, "")
    for version in ("1", "2"):
        serving_ends(serving, version)


def serving_ends(serving: ServerProcess, version: str) -> None:
    """Until the server runs no request of a version any more."""
    deadline = time.monotonic() + 20
    while serving.metric("rhapsode_requests_running", version=version):
        assert time.monotonic() < deadline, "a request goes on"


def test_the_code_to_copy_gives_what_is_shown(page, playground, serving):
    opened(page, playground.url)
    ask(page, "it's the sea", max_new_tokens=12, temperature=1.5, top_k=40)
    shown = answered(page, 0)
    page.get_by_role("button", name="copy as").first.click()
    page.get_by_role("dialog").get_by_role("button").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.startsWith('rhapsode generate '))")
    command = page.evaluate("navigator.clipboard.readText()")
    assert legible(run_command(command)) == legible(shown)
    for name, beginning in (("Python", "from rhapsode_client import Client"), ("grpcurl", "grpcurl -plaintext -d ")):
        page.get_by_role("tab", name=name).click()
        expect(page.locator(".nicegui-tab-panel").filter(has_text=beginning)).to_be_visible()


def run_command(command: str) -> str:
    return CliRunner().invoke(app, shlex.split(command)[1:]).stdout


def test_errors_are_told_as_a_person_wants_them(page, playground):
    opened(page, playground.url)
    ask(page, "the sea", temperature=-1)
    failure = page.locator(".failure").first
    expect(failure).to_contain_text("The server does not accept this")
    expect(failure).to_contain_text("sampling.temperature: must be from 0 to 100, not -1")
    ask(page, "the sea", temperature=1, seed="twelve")
    expect(page.get_by_text("seed: a whole number from 0 to").last).to_be_visible()
    ask(page, "the sea", seed="12", max_new_tokens=3)
    answered(page, 0)
    expect(failure).to_be_hidden()


def test_everything_comes_from_the_playground_itself(page, playground):
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened(page, playground.url)
    ask(page, "the sea", max_new_tokens=3)
    answered(page, 1)
    assert asked
    assert [url for url in asked if not url.startswith((playground.url, "data:", "blob:"))] == []
    assert faults == []


def test_the_tool_takes_its_picture(browser, serving, tmp_path):
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(PHOTOGRAPH), serving.address, str(picture), "--max-new-tokens", "4"]
    subprocess.run(command, check=True, timeout=60)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_server_it_says_so_and_how_to_start_one(browser, start_playground, free_address):
    started = start_playground("--address", free_address)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(started.url)
        expect(page.locator(".server.lost")).to_have_text(f"No server answers at {free_address}")
        page.get_by_role("button", name="generate").click()
        expect(page.get_by_role("alert")).to_contain_text("Start one with: rhapsode-serve --models ./models")
