"""What a run is made of, as one key: a run whose key is that of the present model has nothing to do.

Imports no torch, so that a scheduled run that finds nothing new is over in a moment.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rhapsode_contract
from rhapsode_contract.model_directory import ModelFolder

from .config import BaseConfig, Recipe
from .data.corpus import hash_inputs

_DECIDED = ("champion", "candidate")


def run_key(*, recipe: Mapping[str, Any], data: Mapping[str, str], base: str | None) -> str:
    """sha256 (hexadecimal) over everything that decides what a run makes.

    `recipe` is the resolved recipe as plain data, `data` the sha256 of each input by name, `base` the revision of the
    model that training starts from (None: fresh weights). The sources of the trainer take part by themselves.
    """
    parts = {"recipe": recipe, "data": data, "base": base, "code": code_version()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def identify(recipe: Recipe) -> str:
    """The key of a run of `recipe`: its inputs are hashed, nothing is loaded. Raises ConfigError and DataError."""
    return run_key(recipe=recipe.as_dict(), data=hash_inputs(recipe.data), base=_base_revision(recipe.base))


def _base_revision(base: BaseConfig | None) -> str | None:
    """The commit of a model of the hub, or a hash over the files of a folder."""
    if base is None or not Path(base.model).is_dir():
        return base.revision if base else None
    files = sorted(path for path in Path(base.model).iterdir() if path.suffix in (".json", ".safetensors"))
    digests = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def code_version() -> str:
    """sha256 (hexadecimal) over the Python sources of the trainer and of the disk contract, names included."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parent, Path(rhapsode_contract.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root.parent).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def version_with_key(folder: ModelFolder, key: str) -> int | None:
    """The champion or candidate of the model that a run with this key made; None when there is something new to do.

    A lineage that cannot be read stands for no key: then the run is made once more, which harms nobody.
    """
    aliases = folder.aliases()
    for version in (aliases[alias] for alias in _DECIDED if alias in aliases):
        if _recorded_key(folder.path / str(version) / "lineage.json") == key:
            return version
    return None


def _recorded_key(lineage: Path) -> str | None:
    try:
        key = json.loads(lineage.read_bytes())["key"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return key if isinstance(key, str) else None
