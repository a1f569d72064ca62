"""Arguments that several commands have, and what each text of theirs means.

These functions raise BadArgument for what makes no sense.
"""

import time
from datetime import datetime
from pathlib import Path

from dpsd import __version__
from dpsd.cli import output, own
from dpsd.cli.plain import typer
from dpsd.config import Config, load, parse_duration
from dpsd.core.lists import OPERATOR
from dpsd.core.peers import Network, PeerSize
from dpsd.errors import BadArgument

# Not readable: that is for load() to tell, with the exit code for it.
HERE = typer.Option(None, "--config", metavar="FILE", readable=False, help="As before the command.")
PEER = typer.Argument(..., metavar="PEER", help="An address or a prefix, IPv4 or IPv6.")
PEERS = typer.Argument(..., metavar="PEER...", help="Addresses or prefixes, IPv4 or IPv6.")
FOR = typer.Option(None, "--for", metavar="TIME", help="How long: 90s, 15m, 2h, 7d, 1h30m.")
REASON = typer.Option("", "--reason", metavar="TEXT", help="Kept and shown with the entry.")
JSON = typer.Option(False, "--json", help="For programs.")


def show_version(wanted: bool) -> None:
    """Tell it, and end."""
    if wanted:
        output.write(f"dpsd {__version__}")
        raise typer.Exit


def path_of(ctx: typer.Context, here: Path | None) -> Path:
    """The configuration file: as said after the command, before it, by DPSD_CONFIG, or default."""
    return Path(ctx.find_root().params["config"]) if here is None else here


def config_of(ctx: typer.Context, here: Path | None) -> Config:
    """What that file says."""
    return load(path_of(ctx, here))


def network_of(text: str, size: PeerSize) -> Network:
    """The network that PEER means; the user is told when a bare address means more than itself."""
    try:
        network = own.neighbours(size).parse(text)
    except ValueError as error:
        raise BadArgument(str(error)) from None
    if "/" not in text and network.num_addresses > 1:
        output.say(f"{text} stands for its whole peer, {size.text(network)}")
    return network


def seconds_of(text: str) -> float:
    """The seconds of a --for."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadArgument(f"--for: {error}") from None


def instant_of(text: str) -> float:
    """Seconds since the epoch: of so long ago, or of an RFC 3339 instant."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise BadArgument(
            f"--since: {text!r} is neither a time such as 2h nor an instant such as"
            " 2026-11-23T01:00:00Z"
        ) from None


def source_of(name: str | None) -> str:
    """Who blocks, for a --source of `dpsd block`."""
    from dpsd.cli.editing import program  # noqa: PLC0415 - takes long to import

    return OPERATOR if name is None else program(name)


def reason_of(text: str) -> str:
    """A --reason as it is kept."""
    if not text.isprintable() or len(text) > 200:
        raise BadArgument("--reason: must be one line of up to 200 printable characters")
    return text
