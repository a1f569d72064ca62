"""The manual page dpsd(8), written from the help of the commands.

`python -m dpsd.cli.manual` writes docs/man/dpsd.8 anew, in a checkout.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from dpsd import troff
from dpsd.cli.app import app
from dpsd.config import DEFAULT_PATH, Config
from dpsd.paths import shipped

_SIGNALS = {
    "SIGTERM, SIGINT": "The daemon stops. What is listed stays in the kernel: blocked until its"
    " time is over.",
    "SIGHUP": "The daemon reads the configuration again. With anything wrong in it, or a change"
    " that needs a restart, it goes on as before and says so in the log.",
}
_COMMON = {  # typer's own, whose help differs from version to version
    "-h, --help": "Show the help, also of a command, and exit.",
    "--install-completion, --show-completion": "Set up the completion of commands in the shell, or"
    " show what would be set up, and exit.",
}
_PAGES = (
    *(("dpsd.toml", 5), ("nft", 8), ("conntrack", 8)),
    *(("systemctl", 1), ("journalctl", 1), ("fail2ban-client", 1)),
)


def page() -> str:
    """The text of docs/man/dpsd.8."""
    group: Any = typer.main.get_command(app)
    (what, *about), exits, examples = _read(group.help)
    config = next(each for each in group.params if each.name == "config")
    parts = [
        troff.title("dpsd", 8, "System Manager's Manual"),
        troff.section("Name"),
        f"dpsd \\- {what[0].lower()}{what[1:].rstrip('.')}\n",
        troff.section("Synopsis"),
        f"{troff.usage('dpsd [--config FILE] COMMAND [ARGUMENTS]')}\n",
        troff.section("Description"),
        *map(troff.paragraph, about),
        troff.section("Options"),
        *(_parameter(each) for each in group.params if "completion" not in each.name),
        *(troff.item(troff.usage(names), text) for names, text in _COMMON.items()),
        troff.section("Commands"),
        troff.paragraph(f"Each takes `{_named(config)}` as well."),
        *(part for name, each in group.commands.items() for part in _command(name, each)),
        troff.section("Signals"),
        *(troff.item(troff.bold(name), text) for name, text in _SIGNALS.items()),
        troff.section("Exit status"),
        *(troff.item(troff.bold(code), f"{text}.") for code, text in exits),
        troff.section("Environment"),
        troff.item(
            troff.bold(config.envvar), "The configuration, where no `--config` says otherwise."
        ),
        troff.section("Files"),
        troff.item(troff.bold(str(DEFAULT_PATH)), "The configuration; see dpsd.toml(5)."),
        troff.item(
            troff.bold(Config().store.url.removeprefix("sqlite:///")),
            "The store: lists, history and scores. Without root, the commands need the right to"
            " write it and its folder.",
        ),
        troff.section("Examples"),
        troff.example(examples),
        troff.see_also(_PAGES),
    ]
    return troff.joined(parts)


def _command(name: str, command: Any) -> Iterator[str]:
    """What the page says about one command; --config is told once for all of them."""
    parameters = [each for each in command.params if each.name != "config"]
    about, _, examples = _read(command.help)
    call = " ".join([name, *map(_in_call, parameters)])
    yield troff.subsection(troff.usage(call))
    yield from map(troff.paragraph, about)
    yield from map(_parameter, parameters)
    yield troff.example(examples)


def _read(text: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    r"""The parts of a help text: its paragraphs, exit codes, and examples.

    In the help \b stands before what isn't to be filled.
    """
    paragraphs, exits, examples = list[str](), list[tuple[str, str]](), list[str]()
    for part in inspect.cleandoc(text).split("\n\n"):
        head, _, rest = part.removeprefix("\b\n").partition(":")
        if head in {"Example", "Examples"}:
            examples += [line.strip() for line in rest.splitlines()[1:]]
        elif head == "Exit codes":
            codes = " ".join(rest.split()).rstrip(".").split("; ")
            exits += [(code, _capital(text)) for code, _, text in (c.partition(" ") for c in codes)]
        else:
            paragraphs.append(" ".join(part.split()))
    return paragraphs, exits, examples


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_call(parameter: Any) -> str:
    """A parameter as it stands in the call of its command."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return f"[{_named(parameter)}]"


def _named(parameter: Any) -> str:
    metavar = "" if parameter.metavar is None else f" {parameter.metavar}"
    return ", ".join(parameter.opts) + metavar


def _parameter(parameter: Any) -> str:
    """A parameter and its help; its default, where there is one to tell."""
    is_argument = parameter.param_type_name == "argument"
    name = re.sub(r"[\[\]]", "", parameter.metavar) if is_argument else _named(parameter)
    default = parameter.default
    told = f" Default: {default}." if isinstance(default, str | Path) and str(default) else ""
    return troff.item(troff.usage(name), f"{parameter.help}{told}")


def main() -> None:
    """Write the page."""
    shipped("docs/man/dpsd.8").write_text(page())


if __name__ == "__main__":
    main()
