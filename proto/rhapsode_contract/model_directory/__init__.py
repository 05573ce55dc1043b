"""The model directory: the contract on disk between whoever publishes models and whoever serves them.

    <root>/<name>/<version>/       an immutable version; its MANIFEST.json lists and proves every other file
    <root>/<name>/aliases.json     {"champion": 12, "previous": 11}; replaced atomically
    <root>/<name>/traffic.json     optional weights between versions; replaced atomically
    <root>/<name>/history.jsonl    which alias moved or which weights were set, when, by whom and why
    <root>/<name>/ratings.jsonl    what people said of pairs of versions
    <root>/<name>/.lease .staging/ .trash/

A reader needs `ModelDirectory` and `verify_version` and trusts nothing that does not verify. A writer takes a `Lease`,
then calls `publish`, `ModelFolder.set_alias`, `drop_alias` or `set_traffic`, or `collect_garbage`; a person who decides
which version serves needs only an `Intervention`. Standard library and POSIX only.
"""

from .errors import (
    CorruptFile,
    LeaseHeld,
    LeaseLost,
    LinkedModel,
    ModelDirectoryError,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    VerificationError,
)
from .folders import ModelDirectory, ModelFolder
from .garbage import collect_garbage
from .lease import Intervention, Lease
from .manifest import FileRecord, Manifest, read_manifest, verify_version
from .names import CANDIDATE, CHAMPION, MODEL_NAME_PATTERN, PINNED, PREVIOUS, check_model_name
from .publishing import publish

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "MODEL_NAME_PATTERN",
    "PINNED",
    "PREVIOUS",
    "CorruptFile",
    "FileRecord",
    "Intervention",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "LinkedModel",
    "Manifest",
    "ModelDirectory",
    "ModelDirectoryError",
    "ModelFolder",
    "NoSuchAlias",
    "NoSuchModel",
    "NoSuchVersion",
    "VerificationError",
    "check_model_name",
    "collect_garbage",
    "publish",
    "read_manifest",
    "verify_version",
]
