"""What is copied does what was asked."""

import json
import shlex
from typing import Any

from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from rhapsode.v1.generation_pb2 import GenerateRequest
from rhapsode_client import GenerateOptions
from rhapsode_client.cli.app import app
from rhapsode_client.connection import Connection
from rhapsode_client.requests import generate_request
from rhapsode_client.ui.snippets import Call, command_line, grpcurl, python
from typer.testing import CliRunner

OPTIONS = GenerateOptions(
    model="poems",
    version=2,
    seed=2**64 - 1,
    temperature=0.0,
    top_p=0.95,
    max_new_tokens=12,
    min_p=0.0,
    stop=["END", "'"],
    ignore_eos=True,
    repetition_penalty=None,
)
PROMPTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=2)


def call(prompt: str, address: str = "127.0.0.1:50051", **credentials: Any) -> Call:
    connection = Connection.resolve(address, None, None, None, credentials)
    return Call(connection=connection, prompt=prompt, options=OPTIONS)


@given(PROMPTS)
def test_grpcurl_sends_the_same_request(prompt: str):
    words = shlex.split(grpcurl(call(prompt)))
    assert words[:2] == ["grpcurl", "-plaintext"]
    assert words[-2:] == ["127.0.0.1:50051", "rhapsode.v1.GenerationService/GenerateStream"]
    sent = ParseDict(json.loads(words[words.index("-d") + 1]), GenerateRequest())
    assert sent == generate_request(prompt, **OPTIONS)


@given(PROMPTS)
def test_python_passes_the_same_arguments(prompt: str):
    passed: dict[str, Any] = {}

    class Client:
        def __init__(self, *arguments: str) -> None:
            passed["client"] = arguments

        def stream(self, prompt: str, **options: object) -> "Client":
            passed.update(options, prompt=prompt)
            return self

        def __enter__(self) -> Any:
            return self if "prompt" not in passed else iter(())

        def __exit__(self, *_: object) -> None:
            pass

    program = python(call(prompt, "models:443"))
    exec(program.replace("from rhapsode_client import Client", ""), {"Client": Client})
    given = {name: value for name, value in OPTIONS.items() if value is not None}
    assert passed == {**given, "prompt": prompt, "client": ("models:443",)}


def test_the_command_sends_the_same_request(server: Any):
    for prompt in ("it's the sea", "--help", "line\nline\t\u00e9", "$HOME `x`"):
        words = shlex.split(command_line(call(prompt, server.address)))
        assert words[:2] == ["rhapsode", "generate"]
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, done.output
        assert server.requests[-1] == generate_request(prompt, **OPTIONS)


def test_how_to_connect_is_in_it_but_never_the_token(tmp_path):
    files = {"tls_ca": "ca.pem", "tls_cert": "me.pem", "tls_key": "me.key", "tls_server_name": "models"}
    secured = call("sea", "models:443", token="secret", **files)
    written = {form: form(secured) for form in (command_line, python, grpcurl)}
    assert not any("secret" in each for each in written.values())
    flags = "--address models:443 --tls-ca ca.pem --tls-cert me.pem --tls-key me.key --tls-server-name models"
    assert flags in written[command_line]
    arguments = '"models:443", tls_ca="ca.pem", tls_cert="me.pem", tls_key="me.key", tls_server_name="models"'
    assert f"Client({arguments})" in written[python]
    assert written[grpcurl].startswith(
        "grpcurl -cacert ca.pem -cert me.pem -key me.key -authority models "
        '-H "authorization: Bearer $RHAPSODE_TOKEN" -d '
    )


def test_authorities_that_browsers_trust_need_no_file():
    assert grpcurl(call("sea", tls_ca="public")).startswith("grpcurl -d ")
