"""The manual pages say what the commands' help and the keys say, and every formatter reads them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dpsd import troff
from dpsd.cli import manual as cli_manual
from dpsd.cli.app import app
from dpsd.config import manual as config_manual
from dpsd.config.loading import SECTIONS, keys_of

DIRECTORY = Path(__file__).parents[1] / "docs" / "man"
PAGES = sorted(DIRECTORY.iterdir())


def shown(page: Path) -> str:
    """A page as a terminal shows it, in ASCII and without bold; the formatter must warn of nothing.

    Its lines are very long, so that none is broken.
    """
    done = subprocess.run(
        ["groff", "-man", "-ww", "-T", "ascii", "-P-c", "-P-bou", "-rLL=10000n", str(page)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def test_the_page_of_the_command_is_up_to_date() -> None:
    page = (DIRECTORY / "dpsd.8").read_text(encoding="utf-8")
    assert page == cli_manual.page(), "run: python -m dpsd.cli.manual"


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    page = (DIRECTORY / "dpsd.toml.5").read_text(encoding="utf-8")
    assert page == config_manual.page(), "run: python -m dpsd.config.reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_formatter_warns_of_nothing(page: Path) -> None:
    assert shown(page)


def test_every_command_and_option_is_shown() -> None:
    text, group = shown(DIRECTORY / "dpsd.8"), typer.main.get_command(app)
    commands: Any = vars(group)["commands"]
    for name, command in commands.items():
        assert f" {name} " in text
        first = command.help.partition("\n")[0]
        assert first in text
        for parameter in command.params:
            assert parameter.opts[-1] in text or parameter.metavar in text
    assert "69 Store or kernel out of reach." in text
    assert "DPSD_CONFIG" in text


def test_every_key_is_shown_with_its_terms() -> None:
    text = shown(DIRECTORY / "dpsd.toml.5")
    for section, cls in SECTIONS.items():
        assert f" [{section}] " in text
        for name, key in keys_of(cls).items():
            assert f" {name} = " in text
            assert " ".join(key.terms().split()) in text


def test_nothing_in_a_text_is_taken_for_a_request(tmp_path: Path) -> None:
    odd = r""".so /etc/passwd 'ab \n[x] "q" -- a-b `--for '~^x'` ~^"""
    page = tmp_path / "odd.1"
    parts = [
        troff.title("odd", 1, "x"), troff.section("Name"), "odd \\- x\n", troff.paragraph(odd),
        troff.item(troff.bold(odd), odd), troff.example([odd, "'x", ".y", r"\z"]),
    ]  # fmt: skip
    page.write_text(troff.joined(parts), encoding="utf-8")
    text = shown(page)
    assert text.count(odd) == 2  # bold and example; in prose `code` loses its marks
    assert text.count(odd.replace("`", "")) == 2
    assert r"'x .y \z" in text
