"""Where a version comes from: enough to explain it and to make it again."""

import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rhapsode_contract.model_directory import ModelFolder

from ..config import Recipe
from ..data.corpus import Corpus

_PACKAGES = ("rhapsode-trainer", "rhapsode-contract", "torch", "transformers", "tokenizers", "datasets", "accelerate")


def trained_lineage(
    folder: ModelFolder, recipe_name: str, recipe: Recipe, corpus: Corpus, *, key: str
) -> dict[str, Any]:
    """The lineage of a version that a recipe made; `key` is the identity of the run."""
    return {
        **_common(folder),
        "key": key,
        "recipe": recipe_name,
        "config": recipe.as_dict(),
        "seeds": {"run": recipe.seed, "split": recipe.data.split_salt, "sample": recipe.sample.seed},
        "data": {
            "files": dict(corpus.files),
            "skipped": dict(corpus.skipped),
            "documents": {
                "train": len(corpus.train),
                "validation": len(corpus.validation),
                "held_out": len(corpus.held_out),
            },
        },
    }


def imported_lineage(folder: ModelFolder, source: Path) -> dict[str, Any]:
    """The lineage of a version whose weights were found in the folder `source`."""
    files = sorted(path for path in source.iterdir() if path.suffix in {".json", ".safetensors"} and path.is_file())
    return {
        **_common(folder),
        "recipe": None,
        "source": {"folder": source.resolve().name, "files": {path.name: _sha256(path) for path in files}},
    }


def _common(folder: ModelFolder) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent_version": folder.aliases().get("champion"),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
