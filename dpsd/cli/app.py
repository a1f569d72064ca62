"""The commands, their arguments and their help. What they do is in the modules beside this one.

Typer reads the signatures, so they say `Optional[X]`: Debian 12's typer doesn't know `X | None`.
Everything that takes long to import is imported by the command that needs it.
"""
# ruff: noqa: PLC0415, UP045 - for the two reasons above

import signal
import sys
import time
from pathlib import Path
from typing import Optional

from dpsd.cli import output
from dpsd.cli.arguments import (
    FOR,
    HERE,
    JSON,
    PEER,
    PEERS,
    REASON,
    config_of,
    instant_of,
    network_of,
    path_of,
    reason_of,
    seconds_of,
    show_version,
    source_of,
)
from dpsd.cli.plain import typer
from dpsd.config import DEFAULT_PATH, load
from dpsd.core.lists import ListName
from dpsd.errors import BadArgument, DpsdError, NotSo

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def main() -> None:
    """Run the command; ends the process with its exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `dpsd list | head` just ends
    output.prepare()
    try:
        try:
            app(prog_name="dpsd")
        finally:
            output.finish()
    except DpsdError as error:
        output.complain(str(error))
        sys.exit(error.exit_code)


@app.callback()
def _dpsd(
    config: Path = typer.Option(  # noqa: B008 - read by config_of(); typer's way
        DEFAULT_PATH,
        "--config",
        metavar="FILE",
        envvar="DPSD_CONFIG",
        readable=False,
        help="The configuration.",
    ),
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Keep a mail host answering while it is attacked.

    The daemon watches the sessions to the mail ports, and blocks peers that keep them busy to no
    purpose. These commands run it, ask it, and overrule it.

    \b
    Examples:
      dpsd status
      dpsd list block
      dpsd why 203.0.113.7
      dpsd allow 192.0.2.0/24 --reason "our branch office"

    \b
    Exit codes: 0 done; 1 what was asked for isn't so; 2 bad usage or argument;
    69 store or kernel out of reach; 77 not permitted; 78 bad configuration.
    """


@app.command("run")
def _run(
    ctx: typer.Context,
    observe: bool = typer.Option(False, "--observe", help="Judge and list, but drop nothing."),
    config: Optional[Path] = HERE,
) -> None:
    """Run the daemon in the foreground.

    SIGTERM and SIGINT stop it; what is blocked stays blocked until its time is over. SIGHUP reads
    the configuration again.

    \b
    Examples:
      dpsd run
      dpsd run --observe
    """
    from dpsd.daemon import run

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    raise typer.Exit(run(path_of(ctx, config), observe))


@app.command("list")
def _list(
    ctx: typer.Context,
    name: Optional[ListName] = typer.Argument(  # noqa: B008 - typer's way
        None, metavar="[LIST]", help="white, block or black; all of them if left out."
    ),
    as_json: bool = JSON,
    config: Optional[Path] = HERE,
) -> None:
    """Show who is on the lists.

    A reason is cut to fit its line; --json has the whole of it, and so has `dpsd why`.

    \b
    Examples:
      dpsd list
      dpsd list black --json
    """
    from dpsd.cli.listing import show

    show(config_of(ctx, config), name, as_json)


@app.command("block")
def _block(
    ctx: typer.Context,
    peers: list[str] = PEERS,
    *,
    for_: Optional[str] = FOR,
    permanent: bool = typer.Option(False, "--permanent", help="For good: on the black list."),
    reason: str = REASON,
    source: Optional[str] = typer.Option(
        None, "--source", metavar="NAME", help="The program that blocks, if not an operator."
    ),
    config: Optional[Path] = HERE,
) -> None:
    """Drop a peer's packets to the mail ports.

    Without --for or --permanent, for as long as the configuration says (policy.block_for).
    Blocking again replaces the time. A bare IPv6 address means its whole /64.

    What a program blocks (--source) never replaces what an operator blocked, or another source for
    longer.

    \b
    Examples:
      dpsd block 203.0.113.7
      dpsd block 198.51.100.0/24 --for 2h --reason "password guessing"
      dpsd block 2001:db8:1:2::/64 --permanent
    """
    if permanent and for_ is not None:
        raise BadArgument("--for and --permanent exclude each other")
    from dpsd.cli.changing import Wish, change

    asked = None if for_ is None else seconds_of(for_)
    wish = Wish("block", asked, not permanent, reason_of(reason), source_of(source))
    change(config_of(ctx, config), peers, wish)


@app.command("unblock")
def _unblock(
    ctx: typer.Context,
    peers: Optional[list[str]] = typer.Argument(  # noqa: B008 - typer's way
        None, metavar="[PEER]...", help="Addresses or prefixes, IPv4 or IPv6."
    ),
    everybody: bool = typer.Option(False, "--all", help="Everybody, whoever blocked them."),
    source: Optional[str] = typer.Option(
        None, "--source", metavar="NAME", help="Only what was blocked by this program, or by score."
    ),
    since: Optional[str] = typer.Option(
        None, "--since", metavar="TIME", help="Only what was blocked since: 2h ago, or an instant."
    ),
    config: Optional[Path] = HERE,
) -> None:
    """Take peers off the block and black lists.

    With --all, --source or --since and no PEER, everybody of whom that is so. A SOURCE is a
    program's name, score (what the daemon decided) or operator. What an operator lifts is forgiven:
    it doesn't count towards longer blocks. What a program lifts, with its own name, has ended as
    by its time.

    \b
    Examples:
      dpsd unblock 203.0.113.7 198.51.100.0/24
      dpsd unblock --source score --since 2h
      dpsd unblock --since 2026-11-23T01:00:00Z
      dpsd unblock --all
      dpsd unblock --source fail2ban:postfix-sasl
    """
    from dpsd.cli.changing import Wish, change, lift
    from dpsd.cli.editing import chosen

    if peers and (everybody or since is not None):
        raise BadArgument("PEER, or --all and --since: not both")
    if not peers and not everybody and source is None and since is None:
        raise BadArgument("name a PEER, or whose blocks to lift: --all, --source or --since")
    by, only = chosen(source)
    if peers:
        change(config_of(ctx, config), peers, Wish("unblock", source=by, only=only))
    else:
        lift(config_of(ctx, config), by, only, None if since is None else instant_of(since))


@app.command("allow")
def _allow(
    ctx: typer.Context,
    peers: list[str] = PEERS,
    for_: Optional[str] = FOR,
    reason: str = REASON,
    config: Optional[Path] = HERE,
) -> None:
    """Let a peer pass, whatever it does: put it on the white list.

    For good, unless --for says how long. White comes before black and block.

    \b
    Examples:
      dpsd allow 192.0.2.25 --reason "our backup MX"
      dpsd allow 2001:db8::/48 --for 1d
    """
    from dpsd.cli.changing import Wish, change

    asked = None if for_ is None else seconds_of(for_)
    change(config_of(ctx, config), peers, Wish("allow", asked, reason=reason_of(reason)))


@app.command("disallow")
def _disallow(ctx: typer.Context, peers: list[str] = PEERS, config: Optional[Path] = HERE) -> None:
    """Take a peer off the white list.

    \b
    Example:
      dpsd disallow 192.0.2.25
    """
    from dpsd.cli.changing import Wish, change

    change(config_of(ctx, config), peers, Wish("disallow"))


@app.command("why")
def _why(
    ctx: typer.Context,
    peer: str = PEER,
    as_json: bool = JSON,
    config: Optional[Path] = HERE,
) -> None:
    """Tell what is known about a peer, and what would free it.

    Its list, until when and since when; what its sessions did, for how long, what would have been
    proper and what it cost; its score and limit; which block it is and what the next would be.

    \b
    Examples:
      dpsd why 203.0.113.7
      dpsd why 2001:db8:1:2::1 --json
    """
    from dpsd.cli.telling import tell
    from dpsd.cli.why import why
    from dpsd.store import Store

    settings = config_of(ctx, config)
    network = network_of(peer, settings.peers.size)
    with Store.open(settings.store.url) as store:
        known = why(store, settings, network, time.time())
    if as_json:
        output.write_json(known)
    elif known["known"]:
        for line in tell(known, settings):
            output.write(line)
    if not known["known"]:
        raise NotSo(f"nothing is known about {known['peer']}")


@app.command("status")
def _status(ctx: typer.Context, as_json: bool = JSON, config: Optional[Path] = HERE) -> None:
    """Tell whether the daemon runs, and how things stand.

    \b
    Examples:
      dpsd status
      dpsd status --json
    """
    from dpsd.cli.status import status, summary
    from dpsd.store import Store

    with Store.open(config_of(ctx, config).store.url) as store:
        told = status(store, time.time())
    if as_json:
        output.write_json(told)
    else:
        for head, line in summary(told):
            output.write(f"{head:10}{line}")


@app.command("check")
def _check(ctx: typer.Context, config: Optional[Path] = HERE) -> None:
    """Check configuration, store and kernel; change nothing.

    \b
    Examples:
      dpsd check
      dpsd check --config dpsd.toml.new
    """
    from dpsd.cli.checking import check
    from dpsd.kernel.abilities import problems

    raise typer.Exit(check(config_of(ctx, config), problems))


@app.command("record")
def _record(
    ctx: typer.Context,
    file: Path = typer.Argument(..., metavar="FILE", help="The capture to write."),  # noqa: B008
    for_: str = typer.Option("60s", "--for", metavar="TIME", help="How long."),
    anonymize: bool = typer.Option(
        False, "--anonymize", help="Write other addresses in place of all, prefixes kept."
    ),
    config: Optional[Path] = HERE,
) -> None:
    """Record what the kernel tells of the mail ports' sessions.

    A capture has addresses, ports, states and counters, never what was said in a session. It begins
    with this host's own addresses, gateways and name servers, which a replay spares too, and with
    the configured white list. The kernel must be tracking connections, as it does where the daemon
    runs, or where any ruleset has conntrack in it.

    --anonymize gives each address another one, by a key that is thrown away: addresses that share
    a prefix share one as long afterwards. Ports, times and counters stay.

    \b
    Examples:
      dpsd record attack.capture --for 10m
      dpsd record attack.capture --anonymize
    """
    from dpsd.capture import record

    try:
        heard = record(config_of(ctx, config), file, seconds_of(for_), anonymize)
    except OSError as error:
        if error.filename is None:  # not of a file, so not the user's argument
            raise
        raise BadArgument(f"{error.filename}: {error.strerror}") from None
    if not heard:
        output.warn(
            "no event came: no session to a protected port began or ended, or nothing here makes"
            " the kernel track connections, as the daemon's own ruleset does"
        )


@app.command("replay")
def _replay(
    ctx: typer.Context,
    file: Path = typer.Argument(  # noqa: B008
        ..., metavar="FILE", exists=True, dir_okay=False, help="The capture to read."
    ),
    against: Optional[Path] = typer.Option(  # noqa: B008
        None, "--against", metavar="OTHER", readable=False, help="Another configuration."
    ),
    as_json: bool = JSON,
    config: Optional[Path] = HERE,
) -> None:
    """Show who would have been listed in a capture, and why.

    Nothing is changed. With another configuration, what that one would have done. --against
    compares the two: who would have been listed by one, by the other and by both, when and why.

    \b
    Examples:
      dpsd replay attack.capture
      dpsd replay attack.capture --config stricter.toml --json
      dpsd replay attack.capture --against stricter.toml
    """
    from dpsd.capture import compare, replay
    from dpsd.cli.listing import show_compared, show_replayed

    settings = config_of(ctx, config)
    if against is None:
        show_replayed(replay(settings, file), as_json)
    else:
        names = str(path_of(ctx, config)), str(against)
        show_compared(compare(settings, load(against), file), *names, as_json)
