"""Who may import whom. A line here is a wall of the architecture: moving one is a decision, not a repair."""

import ast
from pathlib import Path

import pytest
from architecture.imports import STDLIB, Import, Rule, eager_paths, imports_of, is_in, read_tree

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "proto/rhapsode_contract",
    "client/rhapsode_client",
    "server/rhapsode_server",
    "trainer/rhapsode_trainer",
)

CONTRACT, CLIENT, SERVER, TRAINER = "rhapsode_contract", "rhapsode_client", "rhapsode_server", "rhapsode_trainer"
WIRE = "rhapsode"
RPC, MODELS, WORKERS, ENGINE = (f"{SERVER}.{layer}" for layer in ("rpc", "models", "workers", "engine"))
TEXT, METRICS, CONFIG, ERRORS = (f"{SERVER}.{name}" for name in ("text", "metrics", "config", "errors"))
ENGINE_PROCESS = f"{WORKERS}.process"
SCHEDULER, RUNNER = f"{ENGINE}.scheduler", f"{ENGINE}.runner"

GRPC = ("grpc", "grpc_health", "grpc_reflection", "google")
TORCH = ("torch", "transformers", "accelerate", "safetensors.torch")

RULES = {
    "OpenTelemetry only in its module": Rule(
        of=(CONTRACT, CLIENT, SERVER, TRAINER), unless=(f"{RPC}.tracing",), never=("opentelemetry",)
    ),
    "aiohttp only in the endpoint over HTTP": Rule(
        of=(CONTRACT, SERVER, TRAINER), unless=(f"{RPC}.openai",), never=("aiohttp",)
    ),
    "the disk contract stands on the standard library": Rule(
        of=(f"{CONTRACT}.model_directory",), only=(STDLIB, f"{CONTRACT}.model_directory")
    ),
    "text steps stand on the standard library and ftfy": Rule(
        of=(f"{CONTRACT}.postprocess",), only=(STDLIB, f"{CONTRACT}.postprocess", "ftfy")
    ),
    "contracts know no program": Rule(of=(CONTRACT,), never=(WIRE, CLIENT, SERVER, TRAINER)),
    "the client stands alone": Rule(of=(CLIENT,), never=(SERVER, TRAINER)),
    "the server stands alone": Rule(of=(SERVER,), never=(CLIENT, TRAINER)),
    "the trainer stands alone": Rule(of=(TRAINER,), never=(CLIENT, SERVER)),
    "the client is light": Rule(of=(CLIENT,), never=TORCH),
    "the wire contract is for the client and rpc": Rule(
        of=(CONTRACT, CLIENT, SERVER, TRAINER), unless=(CLIENT, RPC), never=(WIRE,)
    ),
    "the disk contract is for models, workers, text and the trainer": Rule(
        of=(CLIENT, SERVER), unless=(MODELS, WORKERS, TEXT), never=(CONTRACT,)
    ),
    "gRPC only in rpc": Rule(of=(CONTRACT, SERVER, TRAINER), unless=(RPC,), never=GRPC),
    "Prometheus only in metrics": Rule(
        of=(CONTRACT, CLIENT, SERVER, TRAINER), unless=(METRICS,), never=("prometheus_client",)
    ),
    "torch only in the engine and its process": Rule(of=(SERVER,), unless=(ENGINE, ENGINE_PROCESS), never=TORCH),
    "models below rpc": Rule(of=(MODELS,), never=(RPC,)),
    "workers below models": Rule(of=(WORKERS,), never=(RPC, MODELS, TEXT)),
    "the engine below workers": Rule(of=(ENGINE,), never=(RPC, MODELS, WORKERS, TEXT, METRICS)),
    "text below rpc and models": Rule(of=(TEXT,), never=(RPC, MODELS, WORKERS, ENGINE)),
    "config, errors and metrics below rpc and models": Rule(of=(CONFIG, ERRORS, METRICS), never=(RPC, MODELS)),
    "the scheduler does not know the runner": Rule(of=(SCHEDULER,), never=(RUNNER,)),
    "the runner does not know the scheduler": Rule(of=(RUNNER,), never=(SCHEDULER,)),
}

# Importing any of these imports no torch, not even through others.
WITHOUT_TORCH = (
    *(f"{ENGINE}.{name}" for name in ("request", "batch", "block_pool", "scheduler", "engine")),
    *(RPC, MODELS, WORKERS, TEXT, METRICS, CONFIG, ERRORS, f"{SERVER}.__main__"),
)

VIOLATIONS = [
    ("OpenTelemetry only in its module", f"{RPC}.call", "from opentelemetry import trace"),
    ("aiohttp only in the endpoint over HTTP", f"{RPC}.server", "from aiohttp import web"),
    ("the disk contract stands on the standard library", f"{CONTRACT}.model_directory.files", "import yaml"),
    ("the disk contract stands on the standard library", f"{CONTRACT}.model_directory.files", "import rhapsode.v1"),
    ("text steps stand on the standard library and ftfy", f"{CONTRACT}.postprocess.steps", "import regex"),
    ("contracts know no program", f"{CONTRACT}.postprocess", "from rhapsode_server.text import stops"),
    ("contracts know no program", f"{CONTRACT}.postprocess", "import rhapsode_trainer"),
    ("the client stands alone", f"{CLIENT}.cli.app", "def serve():\n    import rhapsode_server"),
    ("the server stands alone", f"{SERVER}.config", "from rhapsode_trainer.config import Recipe"),
    ("the server stands alone", f"{RPC}.convert", "from rhapsode_client import convert"),
    ("the trainer stands alone", f"{TRAINER}.publish.canary", "from rhapsode_server.engine.engine import Engine"),
    ("the trainer stands alone", TRAINER, "import rhapsode_client as client"),
    ("the client is light", f"{CLIENT}.client", "class Lazy:\n    def load(self):\n        import torch.nn"),
    ("the client is light", f"{CLIENT}.client", "import importlib\nimportlib.import_module('transformers')"),
    ("the wire contract is for the client and rpc", f"{MODELS}.served", "from rhapsode.v1 import models_pb2"),
    ("the wire contract is for the client and rpc", f"{TRAINER}.run", "from rhapsode import v1"),
    ("the disk contract is for models, workers, text and the trainer", f"{RPC}.models", "import rhapsode_contract"),
    ("the disk contract is for models, workers, text and the trainer", f"{RUNNER}", "import rhapsode_contract"),
    ("the disk contract is for models, workers, text and the trainer", CLIENT, "import rhapsode_contract"),
    ("gRPC only in rpc", f"{MODELS}.served", "import grpc.aio"),
    ("gRPC only in rpc", f"{SERVER}.__main__", "from grpc_health.v1 import health"),
    ("gRPC only in rpc", f"{ERRORS}", "from google.rpc import error_details_pb2"),
    ("Prometheus only in metrics", f"{ENGINE}.engine", "from prometheus_client import Counter"),
    ("torch only in the engine and its process", f"{SERVER}.__main__", "import torch"),
    ("torch only in the engine and its process", f"{WORKERS}.worker", "from torch import Tensor"),
    ("torch only in the engine and its process", f"{TEXT}.tokenizer", "from transformers import AutoTokenizer"),
    ("models below rpc", f"{MODELS}.served", "from ..rpc.convert import request"),
    ("workers below models", f"{WORKERS}.worker", "from rhapsode_server.models import served"),
    ("workers below models", f"{WORKERS}.worker", "from rhapsode_server import rpc"),
    ("the engine below workers", f"{ENGINE}.engine", "from rhapsode_server.workers.messages import Step"),
    ("the engine below workers", f"{ENGINE}.engine", "from rhapsode_server import metrics, errors"),
    ("the engine below workers", f"{ENGINE}.sampler", "import rhapsode_server.text.stops"),
    ("text below rpc and models", f"{TEXT}.stops", "from rhapsode_server.engine.request import FinishReason"),
    (
        "config, errors and metrics below rpc and models",
        METRICS,
        "if TYPE_CHECKING:\n    from rhapsode_server.models.served import ModelStatus",
    ),
    ("the scheduler does not know the runner", SCHEDULER, "from .runner import ModelRunner"),
    ("the scheduler does not know the runner", SCHEDULER, "from . import runner"),
    ("the runner does not know the scheduler", RUNNER, "from rhapsode_server.engine import scheduler"),
]

PERMITTED = [
    (f"{RPC}.server", "import grpc\nfrom rhapsode.v1 import generation_pb2\nfrom rhapsode_server.models import served"),
    (f"{MODELS}.served", "from rhapsode_server.text.tokenizer import Tokenizer\nimport rhapsode_contract"),
    (f"{WORKERS}.worker", "from rhapsode_server.engine.request import Request"),
    (f"{ENGINE_PROCESS}", "import torch"),
    (f"{ENGINE}.attention", "import torch, transformers\nfrom . import batch"),
    (f"{METRICS}", "import prometheus_client\nfrom rhapsode_server.engine.engine import EngineStats"),
    (f"{CLIENT}.client", "import grpc\nfrom rhapsode.v1 import generation_pb2\nfrom rhapsode_client import errors"),
    (f"{TRAINER}.run", "import torch\nfrom rhapsode_contract.model_directory import publish"),
    (f"{CONTRACT}.model_directory.files", "import os.path\nfrom . import errors\nfrom .names import check_name"),
]


@pytest.fixture(scope="module")
def tree() -> list[Import]:
    return read_tree(ROOT, *PACKAGES)


@pytest.mark.parametrize("name", RULES)
def test_the_tree_keeps_the_rule(name: str, tree: list[Import]):
    offending = [str(found) for found in tree if RULES[name].forbids(found)]
    assert not offending, f"{name}:\n" + "\n".join(offending)


@pytest.mark.parametrize("start", WITHOUT_TORCH)
def test_importing_it_imports_no_torch(start: str, tree: list[Import]):
    modules = {found.module for found in tree if is_in(found.module, (start,))} - {ENGINE_PROCESS}
    for module in sorted(modules):
        assert not (chain := chain_to_torch(tree, module)), "\n".join(map(str, chain))


@pytest.mark.parametrize(("name", "module", "source"), VIOLATIONS)
def test_a_violation_is_caught_and_placed(name: str, module: str, source: str):
    offending = [found for found in imports_of(module, source, path="bad.py") if RULES[name].forbids(found)]
    last = len(source.splitlines())
    assert [found.place for found in offending] == [f"bad.py:{last}"]


def test_each_rule_has_a_violation():
    assert {name for name, _, _ in VIOLATIONS} == set(RULES)


@pytest.mark.parametrize(("module", "source"), PERMITTED)
def test_the_permitted_passes_every_rule(module: str, source: str):
    found = imports_of(module, source, path="good.py")
    assert found
    assert not [(name, str(each)) for each in found for name, rule in RULES.items() if rule.forbids(each)]


def test_torch_is_found_through_others_but_not_behind_a_function():
    sources = {
        "a": "from b.c import d\nimport lazy",
        "b": "",
        "b.c": "import torch.nn",
        "lazy": "def f():\n    import torch",
        "typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import e",
        "method": "class C:\n    import torch",
    }
    tree = [found for module, source in sources.items() for found in imports_of(module, source, path=f"{module}.py")]
    assert [found.place for found in chain_to_torch(tree, "a")] == ["a.py:1", "b.c.py:1"]
    assert [found.place for found in chain_to_torch(tree, "method")] == ["method.py:2"]
    assert chain_to_torch(tree, "lazy") == chain_to_torch(tree, "typed") == ()


def test_the_packages_around_a_module_count():
    tree = imports_of("b", "import torch", path="b/__init__.py", is_package=True)
    tree += imports_of("a", "import b.c", path="a.py")
    assert [found.place for found in chain_to_torch(tree, "a")] == ["a.py:1", "b/__init__.py:1"]


def test_every_source_is_read(tree: list[Import]):
    importing = {found.place.partition(":")[0] for found in tree}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        has_imports = any(
            isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(path.read_text()))
        )
        assert has_imports == (path.relative_to(ROOT).as_posix() in importing)


def test_the_rules_name_what_exists():
    known = {*(name for rule in RULES.values() for name in (*rule.of, *rule.unless)), *WITHOUT_TORCH}
    folders = [ROOT / package for package in PACKAGES]
    missing = [name for name in known if not any(exists(folder, name) for folder in folders)]
    assert not sorted(missing)


def chain_to_torch(tree: list[Import], module: str) -> tuple[Import, ...]:
    """How importing the module comes to import torch; empty if it does not."""
    chains = eager_paths(tree, module)
    return next((chain for name, chain in chains.items() if is_in(name, TORCH)), ())


def exists(package: Path, name: str) -> bool:
    path = package.parent.joinpath(*name.split("."))
    return package.name == name.partition(".")[0] and (path.is_dir() or path.with_suffix(".py").is_file())
