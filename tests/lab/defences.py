"""The defences that are compared, each set up as its manual says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.lab.agents import Attack
from tests.lab.dpsd import Section
from tests.lab.postfix import SMTPD
from tests.lab.trial import Trial


@dataclass(frozen=True)
class Defence:
    """What stands between attackers and the mail server."""

    name: str
    title: str
    postfix: Mapping[str, str] = field(default_factory=dict)
    port25: tuple[str, ...] = (SMTPD,)
    rules: str = ""
    fail2ban: bool = False
    wait: float = 0.0
    """Seconds for which it keeps every new client waiting, by design."""
    dpsd: Mapping[str, Section] | None = None

    def trial(
        self, attacks: tuple[Attack, ...], seed: int, *, peace: float, seconds: float
    ) -> Trial:
        """A labelled run of this defence under `attacks`; times in seconds."""
        return Trial(
            self.title,
            attacks,
            peace=peace,
            seconds=seconds,
            seed=seed,
            dpsd=self.dpsd,
            postfix=self.postfix,
            port25=self.port25,
            rules=self.rules,
            fail2ban=self.fail2ban,
            prompt=Trial.prompt + self.wait,
        )

    @property
    def lists(self) -> bool:
        """Whether it ever shuts anybody out, rather than only refusing single sessions."""
        return self.fail2ban or self.dpsd is not None


# TUNING_README, "Measures against clients that make too many connections"; it names no numbers.
# The stress-dependent times and limits of STRESS_README are Postfix's defaults, and hold with every
# defence here.
_LIMITS = {
    "smtpd_client_connection_count_limit": "10",
    "smtpd_client_connection_rate_limit": "60",
    "anvil_rate_time_unit": "60s",
}

# POSTSCREEN_README, "Turning on postscreen(8) without blocking mail", and what "Blocking mail with
# postscreen(8)" says of the test before the greeting. No DNS block lists: the lab has no DNS. The
# tests after the greeting stay off, as they are by default.
_POSTSCREEN = (
    "smtp     inet n - n - 1 postscreen",
    "smtpd    pass - - n - - smtpd",
    "dnsblog  unix - - n - 0 dnsblog",
    "tlsproxy unix - - n - 0 tlsproxy",
)

# The nftables wiki's "Connlimits": a dynamic set without a timeout; the kernel forgets an element
# when its count is zero. A /64 is one source.
_CT_COUNT = """
table inet caps {
  set four { type ipv4_addr; size 65535; flags dynamic; }
  set six { type ipv6_addr; size 65535; flags dynamic; }
  chain input {
    type filter hook input priority filter;
    tcp dport { 25, 465, 587 } ct state new \
      add @four { ip saddr ct count over 5 } reject with tcp reset
    tcp dport { 25, 465, 587 } ct state new \
      add @six { ip6 saddr & ffff:ffff:ffff:ffff:: ct count over 5 } reject with tcp reset
  }
}
"""

NONE = Defence("none", "none")
DPSD = Defence("dpsd", "dpsd", dpsd={})
DEFENCES = {
    defence.name: defence
    for defence in (
        NONE,
        Defence("limits", "Postfix's limits", postfix=_LIMITS),
        Defence("ctcount", "ct count", rules=_CT_COUNT),
        Defence(
            "postscreen",
            "postscreen",
            postfix={"postscreen_greet_action": "enforce"},
            port25=_POSTSCREEN,
            wait=6,  # postscreen_greet_wait
        ),
        Defence("fail2ban", "fail2ban", fail2ban=True),
        DPSD,
    )
}
