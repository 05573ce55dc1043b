"""What the code never does: run what others wrote, or read what could."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "proto/rhapsode_contract",
    "client/rhapsode_client",
    "server/rhapsode_server",
    "trainer/rhapsode_trainer",
    "tools",
)
ALLOWED = {
    # A socket pair between a process and the one that it has started, which nobody else can open.
    ("no pickles", "server/rhapsode_server/workers/wire.py"),
    # The notebook of the repository itself, for whoever changes it.
    ("no code from a text", "tools/run_notebook.py"),
}
LOADERS = {"from_pretrained", "from_config"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}


parsed = cache(ast.parse)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; of anything else what can be told."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    values = {each.arg: each.value for each in call.keywords}
    value = values.get(name)
    return value.value if isinstance(value, ast.Constant) else None


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", node


def remote_code(tree: ast.AST) -> Iterator[ast.AST]:
    """A model or tokenizer loaded without `trust_remote_code=False`: unset, transformers asks on the terminal."""
    loaders = (call for name, call in calls(tree) if name.startswith("Auto") and name.rpartition(".")[2] in LOADERS)
    yield from (call for call in loaders if keyword(call, "trust_remote_code") is not False)


def code(tree: ast.AST) -> Iterator[ast.AST]:
    yield from (call for name, call in calls(tree) if name in RUNS_CODE or keyword(call, "shell") is True)


def pickles(tree: ast.AST) -> Iterator[ast.AST]:
    yield from (node for module, node in imports(tree) if module.partition(".")[0] in PICKLES)
    for name, call in calls(tree):
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            yield call


def yaml(tree: ast.AST) -> Iterator[ast.AST]:
    yield from (call for name, call in calls(tree) if name in UNSAFE_YAML)


RULES: dict[str, Callable[[ast.AST], Iterator[ast.AST]]] = {
    "no code from a model folder": remote_code,
    "no code from a text": code,
    "no pickles": pickles,
    "no objects from YAML": yaml,
}


def offending(rule: str, source: str, path: str) -> list[str]:
    if (rule, path) in ALLOWED:
        return []
    return [f"{path}:{node.lineno}: {rule}" for node in RULES[rule](parsed(source))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_of_the_kind_is_in_the_code(rule: str) -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 200
    found = [
        line for path in paths for line in offending(rule, path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("no code from a model folder", "AutoModelForCausalLM.from_pretrained(path)"),
        ("no code from a model folder", "AutoTokenizer.from_pretrained(path, trust_remote_code=True)"),
        ("no code from a model folder", "AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)"),
        ("no code from a text", "eval(text)"),
        ("no code from a text", "subprocess.run(text, shell=True)"),
        ("no pickles", "import pickle"),
        ("no pickles", "def f():\n    from pickle import loads"),
        ("no pickles", "torch.load(path)"),
        ("no objects from YAML", "yaml.load(text, Loader=yaml.Loader)"),
    ],
)
def test_each_is_caught(rule: str, source: str) -> None:
    assert offending(rule, source, "bad.py") == [f"bad.py:{source.count(chr(10)) + 1}: {rule}"]


@pytest.mark.parametrize(
    "source",
    [
        "AutoTokenizer.from_pretrained(path, trust_remote_code=False)",
        "re.compile(pattern)",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
    ],
)
def test_what_is_harmless_is_not_caught(source: str) -> None:
    assert not [line for rule in RULES for line in offending(rule, source, "good.py")]
