"""What the documentation names is there: commands, keys, links, make targets."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dpsd import reference
from dpsd.cli.app import app
from dpsd.config import Config
from dpsd.config.loading import SECTIONS, keys_of, parse
from dpsd.config.rules import RETIRED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"(?:[#$] |ExecStart=)?(?:\S*/)?dpsd (.+)")
KEY = re.compile(r"(\w+)\.(\w+)(?: = .+)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILES = {"py", "md", "toml", "nft", "capture"}  # store.py is no key


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind in kinds:
            yield text


def spans(page: Path) -> Iterator[str]:
    """Code within the text; it may go on on the next line."""
    for span in SPAN.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        yield " ".join(span.split())


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        shown = "\n".join(blocks(page, "sh", "console", "ini"))
        for line in (*shown.splitlines(), *spans(page)):
            found = COMMAND.fullmatch(line.strip())
            if found:
                yield page.name, found[1]


def named_keys() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for span in spans(page):
            found = KEY.fullmatch(span)
            if found and found[1] in SECTIONS and found[2] not in FILES:
                yield page.name, found[1], found[2]


def anchors(page: Path) -> set[str]:
    """The names that headings can be linked by."""
    heads = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_commands_parse(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = shlex.split(line, comments=True)
    monkeypatch.chdir(tmp_path)
    for name in arguments:
        if name.endswith((".capture", ".toml")):
            Path(name).touch()
    group: Any = typer.main.get_command(app)
    name = next((each for each in arguments if each in group.commands), "")
    assert name, f"{page}: no such command"
    before, after = arguments[: arguments.index(name)], arguments[arguments.index(name) + 1 :]
    with group.make_context("dpsd", [*before, name]) as context:
        if len(arguments) > 1:  # else it is only the name that the text tells
            assert group.commands[name].make_context(name, after, parent=context)


@pytest.mark.parametrize(("page", "section", "key"), sorted(set(named_keys())))
def test_keys_exist(page: str, section: str, key: str) -> None:
    told_of_old = page in {"CHANGELOG.md", "configuration.md"}
    assert key in keys_of(SECTIONS[section]) or (told_of_old and (section, key) in RETIRED), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_are_valid(page: Path) -> None:
    for text in blocks(page, "toml"):
        parse(text, page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    lines = [*"\n".join(blocks(page, "sh", "console")).splitlines(), *spans(page)]
    named = {found[1] for line in lines if (found := re.fullmatch(r"make ([\w-]+)", line))}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named <= targets


def test_there_is_something_to_check() -> None:
    assert len(set(commands())) > 20
    assert len(set(named_keys())) > 20


def test_the_tables_of_rules_are_those_of_the_code() -> None:
    """`python -m dpsd.reference` writes them."""
    page = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert reference.written(page) == page
    assert set(re.findall(r"<!-- made: (\w+) -->", page)) == set(reference.TABLES)


def test_the_tables_name_the_defaults() -> None:
    """`evidence.crowd_cost` (35): the number is the key's."""
    found = re.findall(r"`(\w+)\.(\w+)` \(([\d.]+)\)", reference.evidence())
    assert len(found) > 8
    for section, key, number in found:
        assert float(number) == getattr(getattr(Config(), section), key)
