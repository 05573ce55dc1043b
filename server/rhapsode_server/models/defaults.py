"""What a version's own files say for what a request leaves unset."""

import json
from pathlib import Path
from typing import Any

from rhapsode_server.engine.refusal import LOAD_FAILED, ModelRefused
from rhapsode_server.models.served import GenerationDefaults


def read_defaults(path: Path) -> GenerationDefaults:
    """From generation_config.json, and the token ids else from config.json. Raises ModelRefused."""
    generation, config = _read(path / "generation_config.json"), _read(path / "config.json")
    samples = bool(generation.get("do_sample"))
    try:
        return GenerationDefaults(
            temperature=float(_first(generation.get("temperature"), 1.0)) if samples else 0.0,
            top_k=int(_first(generation.get("top_k"), 0)),
            top_p=float(_first(generation.get("top_p"), 1.0)),
            bos_token_id=_first(generation.get("bos_token_id"), config.get("bos_token_id")),
            eos_token_ids=_ids(_first(generation.get("eos_token_id"), config.get("eos_token_id"))),
        )
    except (TypeError, ValueError) as error:
        raise ModelRefused(LOAD_FAILED, f"generation_config.json cannot be understood: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
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
