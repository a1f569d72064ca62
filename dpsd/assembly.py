"""From a configuration to the parts that it describes, for the daemon and for a replay."""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_network

from dpsd import mta
from dpsd.config import Config
from dpsd.config.rules import STATES, ProperTimes, Stress
from dpsd.core import given
from dpsd.core.dumps import Scope
from dpsd.core.engine import Engine
from dpsd.core.events import State
from dpsd.core.given import Given
from dpsd.core.lists import Lists
from dpsd.core.peers import SHORTEST, Network
from dpsd.core.policy import Policy, Pool
from dpsd.kernel.ctnetlink import endpoints
from dpsd.kernel.host import Host
from dpsd.mta import Mta, Slots, assumed


def ask(config: Config) -> Mta:
    """What the mail server of this host says; on a gateway there is none to ask. Not in a loop."""
    if config.protect.addresses:
        return Mta((assumed("the servers are behind this gateway"),))
    return mta.ask(config.protect.ports, config.protect.postfix)


def slots(config: Config, said: Mta | None = None) -> tuple[Slots, ...]:
    """The pools of slots, each with where it comes from; said: by the mail server."""
    if config.protect.slots is not None:
        return (Slots(Pool(frozenset(), config.protect.slots), "protect.slots"),)
    return (assumed("the mail server was not asked"),) if said is None else said.slots


def policy(config: Config, said: Mta | None = None) -> Policy:
    """The numbers that verdicts come from."""
    rules, evidence = config.policy, config.evidence
    own = sorted({*config.proper_times.at_ports, *config.stress.at_ports})
    return Policy(
        pools=tuple(each.pool for each in slots(config, said)),
        block_at=rules.block_at,
        block_for=rules.block_for,
        block_max=rules.block_max,
        black_after=rules.black_after,
        black_within=rules.black_within,
        half_life=rules.half_life,
        stress_at=config.stress.at,
        stress_until=config.stress.until,
        stress_lasts=config.stress.lasts,
        grace=config.stress.grace,
        few_share=config.stress.few,
        defer_for=rules.defer_for,
        credit_most=rules.trust_most,
        crowd_cost=evidence.crowd_cost,
        delivered_bytes=evidence.delivered_bytes,
        credit_half_life=rules.trust_half_life,
        calm_cost=evidence.calm_cost,
        overstay_most=evidence.overstay_most,
        proper=_times(config.proper_times),
        proper_stress=_times(config.stress),
        proper_at={port: _times(config.proper_times, port) for port in own},
        proper_stress_at={port: _times(config.stress, port) for port in own},
        useful_rate=evidence.useful_rate,
        churn_rate=evidence.churn_rate,
        churn_burst=evidence.churn_burst,
        churn_cost=evidence.churn_cost,
        churn_flood=evidence.churn_flood,
        churn_mild=evidence.churn_mild,
        abort_cost=evidence.abort_cost,
        empty_cost=evidence.empty_cost,
        empty_bytes=evidence.empty_bytes,
        idle_rate=evidence.idle_rate,
        idle_burst=evidence.idle_burst,
        knock_rate=evidence.knock_rate,
        time_wait_allowance=evidence.time_wait_allowance,
        time_wait_cost=evidence.time_wait_cost,
    )


def _times(section: ProperTimes | Stress, port: int = 0) -> dict[int, float]:
    """The seconds of each state; where a port has no own, those for all."""
    at_port = section.at_ports.get(port, {})
    names = [name for name in STATES if hasattr(section, name)]
    return {State[name.upper()]: at_port.get(name, getattr(section, name)) for name in names}


def engine(config: Config, host: Host, lists: Lists) -> Engine:
    """An engine that protects what the configuration says, and knows nothing yet."""
    made = Engine(
        policy(config),
        config.peers.size,
        lists,
        endpoints,
        protects(config, host),
        host.is_near,
    )
    made.sessions.established_for = config.forget.established
    set_relays(made, host, None)
    return made


def set_relays(engine: Engine, host: Host, said: Mta | None) -> None:
    """Whose sessions are other people's, by this host's networks and its mail server."""

    @lru_cache(4096)
    def near(key: bytes) -> bool:
        return host.is_relay(engine.size.network_of_key(key))

    engine.live_among(host.own)
    engine.relays.set(near, said.proxied if said is not None else ())


def protects(config: Config, host: Host) -> Callable[[bytes, int], bool]:
    """Whether a server's packed address and port are protected."""
    ports = frozenset(config.protect.ports)
    behind = Host(own_prefixes=config.protect.addresses) if config.protect.addresses else host
    own = behind.own

    @lru_cache(1024)  # asked once or twice for each session
    def protected(address: bytes, port: int) -> bool:
        return port in ports and (address in own or behind.is_own(address))

    return protected


def white(config: Config, host: Host, said: Mta | None) -> Given:
    """What is white by the configuration, this host and its mail server, in this order.

    Each address of the host and near it stands for itself, not for its peer: in the server's own
    /64 an attacker may be a neighbour. Link-local addresses of its own are left out: none of them
    comes from elsewhere, and containers make new ones all the time.
    """
    networks = None if said is None else said.networks
    found = [given.entry(peer, given.CONFIG, "lists.white") for peer in config.white]
    own = sorted((ip_network(address) for address in host.own), key=str)
    for reason, near in (
        (given.OWN, (*host.own_prefixes, *(each for each in own if not each.is_link_local))),
        (given.GATEWAY, host.gateways),
        ("name server", host.name_servers),
    ):
        found += [given.entry(peer, given.HOST, reason) for peer in near if _is_plausible(peer)]
    for peer in networks.trusted if networks else ():
        found.append(given.entry(peer, given.POSTFIX, "Postfix's mynetworks"))
    known = given.SOURCES if networks else (given.CONFIG, given.HOST)
    return given.given(found, known)


def _is_plausible(near: Network) -> bool:
    return near.prefixlen >= SHORTEST[near.version] and not near.is_unspecified


def scopes(config: Config) -> list[Scope]:
    """The dumps that together show every protected session."""
    return [(port, version) for port in config.protect.ports for version in (4, 6)]
