"""The commands, their arguments and their help. What they do is in the modules beside this one.

Typer reads the signatures, so they say `Optional[X]`: Debian 12's typer doesn't know `X | None`.
Everything that takes long to import is imported by the command that needs it.
"""
# ruff: noqa: PLC0415, UP045 - for the two reasons above

import gc
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer
import typer.core

from dpsd import __version__
from dpsd.cli import output, own
from dpsd.config import DEFAULT_PATH, Config, load, parse_duration
from dpsd.core.lists import OPERATOR, ListName
from dpsd.core.peers import Network, PeerSize
from dpsd.errors import BadArgument, DpsdError, NotPermitted, NotSo

if TYPE_CHECKING:
    from dpsd.cli.changing import Wish

# Help and usage errors without boxes and colours, on a terminal and in a pipe alike. The first
# line is for typer before 0.12, which asks nobody.
setattr(typer.core, "rich", None)  # noqa: B010 - an attribute that newer ones don't have
app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

# Not readable: that is for load() to tell, with the exit code for it.
_HERE = typer.Option(
    None, "--config", metavar="FILE", readable=False, help="As before the command."
)
_PEER = typer.Argument(..., metavar="PEER", help="An address or a prefix, IPv4 or IPv6.")
_PEERS = typer.Argument(..., metavar="PEER...", help="Addresses or prefixes, IPv4 or IPv6.")
_FOR = typer.Option(None, "--for", metavar="TIME", help="How long: 90s, 15m, 2h, 7d, 1h30m.")
_REASON = typer.Option("", "--reason", metavar="TEXT", help="Kept and shown with the entry.")
_JSON = typer.Option(False, "--json", help="For programs.")


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


def _show_version(wanted: bool) -> None:
    if wanted:
        output.write(f"dpsd {__version__}")
        raise typer.Exit


@app.callback()
def _dpsd(
    config: Path = typer.Option(  # noqa: B008 - read by _config(); typer's way
        DEFAULT_PATH,
        "--config",
        metavar="FILE",
        envvar="DPSD_CONFIG",
        readable=False,
        help="The configuration.",
    ),
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
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
    config: Optional[Path] = _HERE,
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
    raise typer.Exit(run(_path(ctx, config), observe))


@app.command("list")
def _list(
    ctx: typer.Context,
    name: Optional[ListName] = typer.Argument(  # noqa: B008 - typer's way
        None, metavar="[LIST]", help="white, block or black; all of them if left out."
    ),
    as_json: bool = _JSON,
    config: Optional[Path] = _HERE,
) -> None:
    """Show who is on the lists.

    A reason is cut to fit its line; --json has the whole of it, and so has `dpsd why`.

    \b
    Examples:
      dpsd list
      dpsd list black --json
    """
    from dpsd.cli.why import entry_json
    from dpsd.core.story import short
    from dpsd.store import Store

    gc.disable()  # of 100,000 entries none is garbage, and looking took a third of the time
    settings = _config(ctx, config)
    with Store.open(settings.store.url) as store:
        entries = store.entries(time.time(), name)
    size = settings.peers.size
    shown = [entry_json(entry, size) for entry in entries]
    if as_json:
        output.write_json_lines(shown)
    elif shown:
        rows = [
            [
                *(each["list"], each["peer"], each["expires_at"] or "never", each["source"]),
                short(each["reason"]),
            ]
            for each in shown
        ]
        output.write_table(["LIST", "PEER", "EXPIRES", "BY", "REASON"], rows)
    else:
        output.say(f"nobody is on {f'the {name} list' if name else 'any list'}")


@app.command("block")
def _block(
    ctx: typer.Context,
    peers: list[str] = _PEERS,
    *,
    for_: Optional[str] = _FOR,
    permanent: bool = typer.Option(False, "--permanent", help="For good: on the black list."),
    reason: str = _REASON,
    source: Optional[str] = typer.Option(
        None, "--source", metavar="NAME", help="The program that blocks, if not an operator."
    ),
    config: Optional[Path] = _HERE,
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
    from dpsd.cli.changing import Wish

    asked = None if for_ is None else _seconds(for_)
    wish = Wish("block", asked, not permanent, _reason(reason), _source(source))
    _edit(ctx, config, peers, wish)


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
    config: Optional[Path] = _HERE,
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
    from dpsd.cli.changing import Wish, lift
    from dpsd.cli.editing import chosen

    if peers and (everybody or since is not None):
        raise BadArgument("PEER, or --all and --since: not both")
    if not peers and not everybody and source is None and since is None:
        raise BadArgument("name a PEER, or whose blocks to lift: --all, --source or --since")
    by, only = chosen(source)
    if peers:
        _edit(ctx, config, peers, Wish("unblock", source=by, only=only))
    else:
        lift(_config(ctx, config), by, only, None if since is None else _instant(since))


@app.command("allow")
def _allow(
    ctx: typer.Context,
    peers: list[str] = _PEERS,
    for_: Optional[str] = _FOR,
    reason: str = _REASON,
    config: Optional[Path] = _HERE,
) -> None:
    """Let a peer pass, whatever it does: put it on the white list.

    For good, unless --for says how long. White comes before black and block.

    \b
    Examples:
      dpsd allow 192.0.2.25 --reason "our backup MX"
      dpsd allow 2001:db8::/48 --for 1d
    """
    from dpsd.cli.changing import Wish

    asked = None if for_ is None else _seconds(for_)
    _edit(ctx, config, peers, Wish("allow", asked, reason=_reason(reason)))


@app.command("disallow")
def _disallow(
    ctx: typer.Context, peers: list[str] = _PEERS, config: Optional[Path] = _HERE
) -> None:
    """Take a peer off the white list.

    \b
    Example:
      dpsd disallow 192.0.2.25
    """
    from dpsd.cli.changing import Wish

    _edit(ctx, config, peers, Wish("disallow"))


@app.command("why")
def _why(
    ctx: typer.Context,
    peer: str = _PEER,
    as_json: bool = _JSON,
    config: Optional[Path] = _HERE,
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

    settings = _config(ctx, config)
    network = _network(peer, settings.peers.size)
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
def _status(ctx: typer.Context, as_json: bool = _JSON, config: Optional[Path] = _HERE) -> None:
    """Tell whether the daemon runs, and how things stand.

    \b
    Examples:
      dpsd status
      dpsd status --json
    """
    from dpsd.cli.status import status, summary
    from dpsd.store import Store

    with Store.open(_config(ctx, config).store.url) as store:
        told = status(store, time.time())
    if as_json:
        output.write_json(told)
    else:
        for head, line in summary(told):
            output.write(f"{head:10}{line}")


@app.command("check")
def _check(ctx: typer.Context, config: Optional[Path] = _HERE) -> None:
    """Check configuration, store and kernel; change nothing.

    \b
    Examples:
      dpsd check
      dpsd check --config dpsd.toml.new
    """
    from dpsd import assembly
    from dpsd.cli.status import daemon_warnings, mail_server_warnings, store_problem
    from dpsd.kernel.abilities import problems

    settings = _config(ctx, config)
    codes = [0]
    if (error := store_problem(settings)) is not None:
        output.write(f"error: {error}")
        codes.append(error.exit_code)
    for problem in problems(settings):
        output.write(f"{problem.severity}: {problem.text}")
        if problem.mend:
            output.write(f"  {problem.mend}")
        codes.append({"warning": 0, "forbidden": NotPermitted.exit_code}.get(problem.severity, 69))
    mta = assembly.ask(settings)
    for warning in mail_server_warnings(mta):
        output.write(f"warning: {warning}")
        codes.append(0)
    for warning in daemon_warnings(settings):
        output.write(f"warning: {warning}")
        codes.append(0)
    if settings.protect.slots is None:
        for each in assembly.slots(settings, mta):
            output.say(f"slots: {each.words(settings.protect.ports)}")
    if len(codes) == 1:
        output.say("all is well")
    raise typer.Exit(max(codes))


@app.command("record")
def _record(
    ctx: typer.Context,
    file: Path = typer.Argument(..., metavar="FILE", help="The capture to write."),  # noqa: B008
    for_: str = typer.Option("60s", "--for", metavar="TIME", help="How long."),
    anonymize: bool = typer.Option(
        False, "--anonymize", help="Write other addresses in place of all, prefixes kept."
    ),
    config: Optional[Path] = _HERE,
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
        heard = record(_config(ctx, config), file, _seconds(for_), anonymize)
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
    as_json: bool = _JSON,
    config: Optional[Path] = _HERE,
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
    from dpsd.cli.comparing import comparison

    settings = _config(ctx, config)
    if against is not None:
        compared = compare(settings, load(against), file)
        if as_json:
            output.write_json(compared)
        else:
            for line in comparison(compared, str(_path(ctx, config)), str(against)):
                output.write(line)
        return
    verdicts = replay(settings, file)
    if as_json:
        output.write_json_lines(verdicts)
    elif verdicts:
        rows = [["" if cell is None else str(cell) for cell in each.values()] for each in verdicts]
        output.write_table([key.upper() for key in verdicts[0]], rows)
    else:
        output.say("nobody would have been listed")


def _path(ctx: typer.Context, here: Path | None) -> Path:
    """The configuration file: as said after the command, before it, by DPSD_CONFIG, or default."""
    return Path(ctx.find_root().params["config"]) if here is None else here


def _config(ctx: typer.Context, here: Path | None) -> Config:
    return load(_path(ctx, here))


def _network(text: str, size: PeerSize) -> Network:
    """The network that PEER means; the user is told when a bare address means more than itself."""
    try:
        network = own.neighbours(size).parse(text)
    except ValueError as error:
        raise BadArgument(str(error)) from None
    if "/" not in text and network.num_addresses > 1:
        output.say(f"{text} stands for its whole peer, {size.text(network)}")
    return network


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadArgument(f"--for: {error}") from None


def _instant(text: str) -> float:
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


def _source(name: str | None) -> str:
    from dpsd.cli.editing import program

    return OPERATOR if name is None else program(name)


def _reason(text: str) -> str:
    if not text.isprintable() or len(text) > 200:
        raise BadArgument("--reason: must be one line of up to 200 printable characters")
    return text


def _edit(ctx: typer.Context, here: Path | None, peers: list[str], wish: "Wish") -> None:
    """Make one change of what the lists say about peers."""
    from dpsd.cli.changing import change

    settings = _config(ctx, here)
    networks = list(dict.fromkeys(_network(peer, settings.peers.size) for peer in peers))
    change(settings, wish, networks)
