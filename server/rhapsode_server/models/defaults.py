"""What a version's own files say for what a request leaves unset."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rhapsode_server.engine.refusal import LOAD_FAILED, ModelRefused
from rhapsode_server.models.served import GenerationDefaults


def read_defaults(path: Path, vocabulary_size: int) -> GenerationDefaults:
    """From generation_config.json, and the token ids else from config.json. Raises ModelRefused.

    Token ids that the tokenizer does not have are those of another model, left over: they are passed over.
    """
    generation, config = _read(path / "generation_config.json"), _read(path / "config.json")

    def token_ids(name: str) -> tuple[int, ...]:
        with _naming(name):
            ids = _ids(_first(generation.get(name), config.get(name)))
        return tuple(token_id for token_id in ids if 0 <= token_id < vocabulary_size)

    try:
        samples = bool(generation.get("do_sample"))
        return GenerationDefaults(
            temperature=_number(generation, "temperature", 1.0, 0.0, 100.0) if samples else 0.0,
            top_k=int(_number(generation, "top_k", 0, 0, 2**32 - 1)),
            top_p=_number(generation, "top_p", 1.0, 1e-6, 1.0),
            min_p=_number(generation, "min_p", 0.0, 0.0, 1.0),
            typical_p=_number(generation, "typical_p", 1.0, 1e-6, 1.0),
            repetition_penalty=_number(generation, "repetition_penalty", 1.0, 1e-6, 100.0),
            bos_token_id=next(iter(token_ids("bos_token_id")), None),
            eos_token_ids=token_ids("eos_token_id"),
        )
    except ValueError as error:
        raise ModelRefused(LOAD_FAILED, f"generation_config.json cannot be understood: {error}") from error


def _number(document: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    with _naming(name):
        value = float(_first(document.get(name), default))
    if not least <= value <= most:
        raise ValueError(f"{name}: {value:g} is not from {least:g} to {most:g}")
    return value


@contextmanager
def _naming(field: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{field}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(LOAD_FAILED, f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelRefused(LOAD_FAILED, f"{path.name} is not a JSON object")
    return content


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(map(int, value)) if isinstance(value, list) else (int(value),)
