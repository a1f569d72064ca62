"""The layout of the house: who may import whom, and that everything public is explained."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dpsd

ROOT = Path(dpsd.__file__).parent
FILES = [*ROOT.rglob("*.py"), *ROOT.parent.joinpath("migrations").rglob("*.py")]
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in FILES}

# What each part of the house may import of the others. `core` knows nobody; the parts that do the
# work know the core, not each other; what puts them together may know all.
KNOWS: dict[str, set[str]] = {
    "dpsd.core": set(),
    "dpsd.control": set(),
    "dpsd.errors": set(),
    "dpsd.paths": set(),
    "dpsd.troff": set(),
    "dpsd.reference": {"core", "paths"},
    "dpsd.config": {"core", "errors", "paths", "troff"},
    "dpsd.kernel": {"core", "errors", "paths"},
    "dpsd.mta": {"core", "errors"},
    "dpsd.store": {"core", "errors", "paths"},
    "dpsd.assembly": {"core", "errors", "config", "kernel", "mta"},
    "dpsd.daemon": {
        *("core", "control", "errors", "config", "kernel", "mta", "store", "assembly"),
    },
    "dpsd.capture": {"core", "errors", "config", "kernel", "assembly", "daemon"},
    "dpsd.cli": {
        *("core", "errors", "paths", "troff", "config", "kernel", "mta", "store", "assembly"),
        *("capture", "control", "daemon"),
    },
    "migrations": {"errors", "store"},
}
EXCEPTIONS = {
    # `dpsd check` compares the kernel with a configuration.
    ("dpsd.kernel.abilities", "config"),
}
LIBRARIES = {
    "alembic": {"dpsd.store", "migrations"},
    "apscheduler": {"dpsd.daemon"},
    "click": {"dpsd.cli"},
    "nftables": {"dpsd.kernel"},
    "prometheus_client": {"dpsd.daemon"},
    "pyroute2": {"dpsd.kernel"},
    "rich": {"dpsd.cli"},
    "sqlalchemy": {"dpsd.store", "migrations"},
    "typer": {"dpsd.cli"},
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever in it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are by full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    """Which part of the house a module belongs to."""
    parts = module.split(".")
    return parts[0] if parts[0] == "migrations" else ".".join(parts[:2])


@pytest.mark.parametrize("module", MODULES)
def test_every_part_knows_only_whom_it_may(module: str) -> None:
    known = KNOWS.get(part(module))
    if known is None:  # the package itself, and `python -m dpsd`
        assert module in {"dpsd.__init__", "dpsd.__main__"}
        return
    for name in imports(module):
        if name.startswith("dpsd.") and part(name) != part(module):
            other = name.split(".")[1]
            assert other in known or (module, other) in EXCEPTIONS or other == "__version__", name


def test_no_exception_is_there_for_nothing() -> None:
    found = {
        (module, name.split(".")[1])
        for module in MODULES
        for name in imports(module)
        if name.startswith("dpsd.")
    }
    assert found >= EXCEPTIONS


@pytest.mark.parametrize("module", MODULES)
def test_big_libraries_stay_in_their_rooms(module: str) -> None:
    for name in imports(module):
        library = name.partition(".")[0]
        if library not in sys.stdlib_module_names and library != "dpsd":
            assert part(module) in LIBRARIES[library], name


def test_the_core_is_pure() -> None:
    """No clock, no file, no socket, no randomness: time arrives with the events."""
    impure = {"asyncio", "io", "os", "pathlib", "random", "select", "socket", "subprocess", "time"}
    for module in MODULES:
        if part(module) == "dpsd.core":
            found = {name.partition(".")[0] for name in imports(module)}
            assert not found & impure, module
            assert found <= sys.stdlib_module_names | {"dpsd"}, module
            calls = (node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call))
            assert not {f.id for f in calls if isinstance(f, ast.Name)} & {"open", "print"}, module


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_explained(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} says nothing of itself"
    found = [*public(tree(module))]
    # What overrides an explained method needs no more words; Alembic explains its own two.
    explained = {name.rpartition(".")[2] for name, node in found if ast.get_docstring(node)}
    explained |= {"upgrade", "downgrade"} if module.startswith("migrations.") else set()
    missing = {name for name, node in found if not ast.get_docstring(node)}
    assert not {name for name in missing if name.rpartition(".")[2] not in explained}


def public(
    node: ast.Module | ast.ClassDef, inside: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Functions, classes and their methods, but for those of a leading underscore."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if each.name.startswith("_"):
                continue
            yield inside + each.name, each
            if isinstance(each, ast.ClassDef):
                yield from public(each, f"{inside}{each.name}.")


@pytest.mark.parametrize("module", MODULES)
def test_every_exception_from_the_linters_has_a_reason(module: str) -> None:
    for number, line in enumerate(MODULES[module].read_text().splitlines(), 1):
        comment = line.partition("# noqa")[2]
        assert not comment or comment.startswith(":"), f"{module}:{number}: names no rule"
