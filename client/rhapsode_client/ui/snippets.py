"""The call behind an answer, as a person would write it: for the shell, in Python, and for grpcurl."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.json_format import MessageToDict

from rhapsode_client import GenerateOptions
from rhapsode_client.connection import DEFAULT_ADDRESS, Connection
from rhapsode_client.requests import generate_request

_TLS_FILES = ("tls_ca", "tls_cert", "tls_key", "tls_server_name")
_GRPCURL_FLAGS = {"tls_cert": "-cert", "tls_key": "-key", "tls_server_name": "-authority"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked, and of whom. A token never appears in what is written of it: it is read from RHAPSODE_TOKEN."""

    connection: Connection
    prompt: str
    options: GenerateOptions


def command_line(call: Call) -> str:
    """For the shell: `rhapsode generate`."""
    words = ["rhapsode", "generate", *_flags(_given(call.options)), *_flags(_target(call.connection))]
    return shlex.join([*words, "--", call.prompt] if call.prompt.startswith("-") else [*words, call.prompt])


def python(call: Call) -> str:
    """A program that prints the text as it is produced."""
    arguments = [_literal(call.prompt)]
    arguments += [f"{name}={_literal(value)}" for name, value in _given(call.options).items()]
    target = _target(call.connection)
    target.pop("address", None)
    client = [_literal(call.connection.address), *(f"{name}={_literal(file)}" for name, file in target.items())]
    lines = "".join(f"        {argument},\n" for argument in arguments)
    return (
        "from rhapsode_client import Client\n\n"
        f"with Client({', '.join(client)}) as client:\n"
        f"    with client.stream(\n{lines}    ) as stream:\n"
        "        for delta in stream:\n"
        '            print(delta.text, end="", flush=True)\n'
    )


def grpcurl(call: Call) -> str:
    """For grpcurl, which asks the server for the schema."""
    request = MessageToDict(generate_request(call.prompt, **call.options))
    words = ["grpcurl", *_grpcurl_security(call.connection)]
    token = ' -H "authorization: Bearer $RHAPSODE_TOKEN"' if call.connection.credentials.token else ""
    data = shlex.join(["-d", json.dumps(request, ensure_ascii=False)])
    return (
        f"{shlex.join(words)}{token} {data} "
        f"{shlex.quote(call.connection.address)} rhapsode.v1.GenerationService/GenerateStream"
    )


def _given(options: GenerateOptions) -> Mapping[str, object]:
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value not in ("", [])
    }


def _target(connection: Connection) -> dict[str, object]:
    """What tells a client where and how to connect, but for what is so anyway."""
    address = {} if connection.address == DEFAULT_ADDRESS else {"address": connection.address}
    files = {name: file for name in _TLS_FILES if (file := getattr(connection.credentials, name))}
    return {**address, **files}


def _flags(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"--{name.replace('_', '-')}"
            if each is not True:
                yield str(each)


def _grpcurl_security(connection: Connection) -> Iterator[str]:
    credentials = connection.credentials
    if not credentials.tls_ca:
        yield "-plaintext"
        return
    if credentials.tls_ca != "public":
        yield from ("-cacert", credentials.tls_ca)
    for name, flag in _GRPCURL_FLAGS.items():
        if value := getattr(credentials, name):
            yield from (flag, value)


def _literal(value: object) -> str:
    """A value as a Python literal, texts in double quotes."""
    if not isinstance(value, str):
        return repr(value)
    return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
