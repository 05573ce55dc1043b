"""What Python sources import, read with `ast`: nothing is executed."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STDLIB = "the standard library"
LAZY = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True, slots=True)
class Import:
    """`module` imports `target`; `from a import b` has the target a.b. `eager`: as soon as `module` is imported."""

    module: str
    target: str
    place: str
    eager: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.module} imports {self.target}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Modules in `of` but not in `unless`, packages with all below them, import nothing of `never`, or `only` these."""

    of: tuple[str, ...]
    unless: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def forbids(self, found: Import) -> bool:
        if not is_in(found.module, self.of) or is_in(found.module, self.unless):
            return False
        return is_in(found.target, self.never) or (bool(self.only) and not is_in(found.target, self.only))


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    """Whether the dotted name is one of the packages or below one."""
    standard = STDLIB in packages and name.partition(".")[0] in sys.stdlib_module_names
    return standard or any(name == package or name.startswith(f"{package}.") for package in packages)


def imports_of(module: str, source: str, *, path: str, is_package: bool = False) -> list[Import]:
    """Every import of a source, also those in functions, under TYPE_CHECKING and by importlib."""
    package = module if is_package else module.rpartition(".")[0]
    return [
        Import(module, target, f"{path}:{node.lineno}", eager)
        for node, eager in _walk(ast.parse(source), eager=True)
        for target in _targets(node, package)
    ]


def read_tree(root: Path, *packages: str) -> list[Import]:
    """The imports of packages such as client/rhapsode_client below the repository root."""
    found: list[Import] = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            parts = path.relative_to((root / package).parent).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            found += imports_of(module, path.read_text("utf-8"), path=relative, is_package=is_package)
    return found


def eager_paths(imports: list[Import], start: str) -> dict[str, tuple[Import, ...]]:
    """All that importing the module `start` imports, each with the chain of imports that leads there."""
    outgoing: dict[str, list[Import]] = {}
    for found in imports:
        if found.eager:
            outgoing.setdefault(found.module, []).append(found)
    chains: dict[str, tuple[Import, ...]] = dict.fromkeys(_with_parents(start), ())
    queue = list(chains)
    while queue:
        module = queue.pop(0)
        for found in outgoing.get(module, ()):
            for name in _with_parents(found.target):
                if name not in chains:
                    chains[name] = (*chains[module], found)
                    queue.append(name)
    return chains


def _with_parents(name: str) -> list[str]:
    """a, a.b and a.b.c: Python imports the packages around a module first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _walk(node: ast.AST, *, eager: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, eager
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _walk(child, eager=False)
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _walk(child, eager=eager and not isinstance(node, LAZY))


def _targets(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module, names, level):
            base = _base(package, level) if level else ""
            start = ".".join(part for part in (base, module) if part)
            return [f"{start}.{alias.name}" for alias in names]
        case ast.Call(ast.Name("__import__" | "import_module"), [ast.Constant(str(name)), *_]):
            return [name]
        case ast.Call(ast.Attribute(attr="import_module"), [ast.Constant(str(name)), *_]):
            return [name]
    return []


def _base(package: str, level: int) -> str:
    """The package that a relative import of so many dots starts from."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1])
