"""The configuration: what is read, what is refused and in which words, and that the texts agree."""

import os
import tomllib
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsd.config import (
    Config,
    changed,
    format_duration,
    load,
    needs_restart,
    parse,
    parse_duration,
    reference,
)
from dpsd.config.kinds import parse_size
from dpsd.config.loading import SECTIONS, keys_of
from dpsd.core.peers import PeerSize
from dpsd.errors import ConfigError, NotPermitted
from dpsd.paths import shipped


def refusal(text: str) -> str:
    """What is said about a text that isn't accepted."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "test.toml")
    return str(caught.value)


# --- what is accepted ---------------------------------------------------------------------------


def test_an_empty_file_is_every_default(tmp_path: Path) -> None:
    path = tmp_path / "dpsd.toml"
    path.write_bytes(b"")
    assert load(path) == Config()


def test_the_defaults_that_the_design_names() -> None:
    config = Config()
    assert config.protect.ports == (25, 465, 587)
    assert config.protect.addresses == ()
    assert config.protect.slots is None  # "auto"
    assert parse("protect.slots = 100").protect.slots == 100
    assert parse('protect.slots = "auto"') == config
    assert config.store.url == "sqlite:////var/lib/dpsd/dpsd.db"
    assert (config.policy.block_at, config.policy.block_for) == (60.0, 600.0)
    assert config.policy.black_after == 5
    assert config.lists.white == ("127.0.0.0/8", "::1")


def test_every_kind_of_value() -> None:
    config = parse("""
        [protect]
        ports = [2525]
        addresses = ["192.0.2.1", "2001:db8::/48"]
        [policy]
        block_at = 12.5
        block_for = "1h30m"
        [enforce]
        mode = "observe"
        all_ports = true
        [kernel]
        event_buffer = "1MiB"
    """)
    assert config.protect.ports == (2525,)
    assert config.protect.addresses == (ip_network("192.0.2.1"), ip_network("2001:db8::/48"))
    assert (config.policy.block_at, config.policy.block_for) == (12.5, 5400.0)
    assert (config.enforce.mode, config.enforce.all_ports) == ("observe", True)
    assert config.kernel.event_buffer == 1 << 20
    assert config.log == Config().log


def test_whole_numbers_do_where_decimals_may_stand() -> None:
    assert parse("policy.block_at = 60").policy.block_at == 60.0


def test_white_means_whole_peers_of_the_configured_size() -> None:
    text = 'lists.white = ["192.0.2.7", "2001:db8::1", "198.51.100.0/25"]'
    assert parse(text).white == (
        ip_network("192.0.2.7/32"),
        ip_network("2001:db8::/64"),
        ip_network("198.51.100.0/25"),
    )
    wider = parse(text + "\n[peers]\nipv4_prefix = 24\nipv6_prefix = 48")
    assert wider.peers.size == PeerSize(24, 48)
    assert wider.white[:2] == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/48"))


def test_proper_times_of_single_ports() -> None:
    config = parse("""
        [proper_times.587]
        fin_wait = "20s"
        [proper_times]
        last_ack = "40s"
        [stress]
        465.last_ack = "5s"
        [stress.25]
    """)
    assert config.proper_times.at_ports == {587: {"fin_wait": 20.0}}
    assert config.proper_times.last_ack == 40.0
    assert config.stress.at_ports == {465: {"last_ack": 5.0}, 25: {}}
    assert changed(Config(), config) == [
        *("proper_times.last_ack", "proper_times.at_ports", "stress.at_ports"),
    ]
    assert needs_restart(Config(), config) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('stress.established = "10s"', "stress.established is ignored: "),
        ("[stress]\nreap_after = 3", "stress.reap_after is ignored: "),  # whatever it was set to
        ("stress.useful_rate = 64", "stress.useful_rate is ignored: "),
        ('[stress.587]\nestablished = "10s"', "stress.587.established is ignored: "),
    ],
)
def test_keys_of_earlier_versions_are_ignored_with_a_warning(
    text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An upgrade doesn't stop the daemon: the administrator's own file may still have them."""
    parsed = parse(text)
    assert replace(parsed, stress=Config().stress) == Config()
    assert parsed.stress.until == Config().stress.until
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(words)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown names
        ("protect.prots = [25]", "protect.prots: no such key; did you mean ports?"),
        ("[protec]", "protec: no such section; did you mean protect?"),
        ("[protect]\nwhite = []", "protect.white: no such key; did you mean lists.white?"),
        ("slots = 5", "slots: no such key; did you mean protect.slots?"),
        ("[peers]\nxyzzy = 1", "peers.xyzzy: no such key; known are ipv4_prefix, ipv6_prefix"),
        (
            '[log]\n"a\\u001b[31m" = 1',
            'log."a\\u001b[31m": no such key; known are level',
        ),
        ("policy = 5", "policy: must be a section, [policy], not 5"),
        ("[[policy]]\nblock_at = 5", 'policy: must be a section, [policy], not [{"block_at": 5}]'),
        # types and bounds
        ("protect.slots = 0", "protect.slots: must be 1 to 1000000 sessions, not 0"),
        ("protect.slots = true", "protect.slots: must be a whole number, not true"),
        ("protect.slots = 1.5", "protect.slots: must be a whole number, not 1.5"),
        ('protect.slots = "100"', 'protect.slots: must be a whole number, not "100"'),
        ("policy.block_at = nan", "policy.block_at: must be 1 to 1000000 slot-seconds, not NaN"),
        (
            f"policy.block_at = 1{'0' * 400}",
            f"policy.block_at: must be 1 to 1000000 slot-seconds, not 1{'0' * 400}",
        ),
        ("policy.block_at = inf", "policy.block_at: must be 1 to 1000000 slot-seconds, not Inf"),
        ("policy.block_at = false", "policy.block_at: must be a number, not false"),
        (
            "policy.block_at = 1979-05-27",
            'policy.block_at: must be a number, not "1979-05-27"',
        ),
        ("enforce.all_ports = 1", "enforce.all_ports: must be true or false, not 1"),
        (
            'enforce.mode = "on"',
            'enforce.mode: must be "enforce" or "observe", not "on"',
        ),
        ("enforce.mode = []", 'enforce.mode: must be "enforce" or "observe", not []'),
        (
            "peers.ipv4_prefix = 31",
            "peers.ipv4_prefix: must be 8 to 32, a multiple of 8, not 31",
        ),
        (
            "peers.ipv6_prefix = 24",
            "peers.ipv6_prefix: must be 40 to 128, a multiple of 8, not 24",
        ),
        # durations and sizes
        (
            "policy.block_for = 600",
            'policy.block_for: 600 has no unit; write a duration such as "600s"',
        ),
        ('policy.block_for = "10"', 'policy.block_for: "10" is no duration; write it as "90s"'),
        ('policy.block_for = "0s"', 'policy.block_for: "0s" is not between 1s and 3650d'),
        ("policy.block_for = true", "policy.block_for: must be a duration in quotes, not true"),
        (
            'proper_times.last_ack = "2d"',
            'proper_times.last_ack: must be a duration, "1s" to "1d", not "2d"',
        ),
        ('kernel.event_buffer = "1TiB"', 'kernel.event_buffer: "1TiB" is no size; write it as'),
        (
            'kernel.event_buffer = "2GiB"',
            'kernel.event_buffer: must be a size, "256KiB" to "1GiB", not "2GiB"',
        ),
        ("kernel.event_buffer = 5", "kernel.event_buffer: must be a size in quotes, not 5"),
        # lists
        ("protect.ports = 25", "protect.ports: must be a list, [25]"),
        ("protect.ports = []", "protect.ports: must have 1 to 16 values, not 0"),
        (f"protect.ports = {[*range(1, 18)]}", "must have 1 to 16 values, not 17"),
        ("protect.ports = [25, 587, 25]", "protect.ports: 25 is there 2 times"),
        (
            "protect.ports = [0, 70000]",
            "protect.ports: must be 1 to 65535, not 0; must be 1 to 65535, not 70000",
        ),
        # addresses
        (
            'protect.addresses = ["192.0.2.1/24"]',
            "192.0.2.1/24: has bits set behind the prefix; did you mean 192.0.2.0/24?",
        ),
        ('protect.addresses = ["mail.example"]', "'mail.example' is neither an IPv4 nor an IPv6"),
        ('protect.addresses = ["fe80::1%eth0"]', "an address with a zone can't be listed"),
        ('protect.addresses = ["0.0.0.0/0"]', "0.0.0.0/0: must be /8 or longer"),
        ("protect.addresses = [1]", "must be an address or a prefix in quotes, not 1"),
        (
            'protect.addresses = ["192.0.2.0/24", "10.0.0.1", "192.0.2.9"]',
            "192.0.2.0/24 already holds 192.0.2.9/32; leave one of them out",
        ),
        ('lists.white = ["10.0.0.1/8"]', "lists.white: 10.0.0.1/8: has bits set behind"),
        ('lists.white = ["0.0.0.0/0"]', "lists.white: 0.0.0.0/0: a prefix shorter than /8"),
        ('lists.white = ["10.0.0.0/8", "10.0.0.0/8"]', "lists.white: 10.0.0.0/8 is there 2 times"),
        (
            'lists.white = ["2001:db8::1", "2001:db8::2"]',
            "lists.white: 2001:db8::/64 already holds 2001:db8::/64; leave one of them out",
        ),
        # the store
        ('store.url = "sqlite://"', "store.url: must be"),
        ('store.url = "sqlite:///relative.db"', "store.url: must be"),
        ('store.url = "sqlite:////folder/"', "store.url: must be"),
        ('store.url = "mysql://host/db"', "store.url: must be"),
        # contradictions
        (
            'policy.block_max = "5m"',
            "policy.block_max: 5m must be at least as long as policy.block_for (10m)",
        ),
        (
            'store.history_for = "7d"',
            "store.history_for: 7d must be at least as long as policy.black_within (30d)",
        ),
        (
            'stress.last_ack = "1m"',
            "proper_times.last_ack: 50s must be at least as long as stress.last_ack (1m)",
        ),
        (
            'forget.fin_wait = "1m"',
            "forget.fin_wait: 1m must be longer than proper_times.fin_wait (1m50s)",
        ),
        # tables of single ports
        (
            "[proper_times.2525]",
            "proper_times.2525: no protected port; they are 25, 465, 587",
        ),
        ("[stress.70000]", "stress.70000: no protected port; they are 25, 465, 587"),
        ("[stress.0587]", "stress.0587: no such key; known are at, until,"),
        ("[proper_times.smtp]", "proper_times.smtp: no such key; known are established,"),
        ("[proper_times]\nat_ports = {}", "proper_times.at_ports: no such key; known are"),
        ("[forget.587]", "forget.587: no such key"),
        ('proper_times.587 = "1m"', "proper_times.587: must be a section, [proper_times.587], not"),
        (
            '[proper_times.587]\nfin_wit = "1m"',
            "proper_times.587.fin_wit: no such key; did you mean fin_wait?",
        ),
        (
            "[stress.587]\nuntil = 0.5",
            "stress.587.until: no such key; did you mean stress.until?",
        ),
        ("[stress.587]\nfin_wait = 5", "stress.587.fin_wait: 5 has no unit; write a duration"),
        (
            '[stress.587]\nlast_ack = "1m"',
            "proper_times.last_ack: 50s must be at least as long as stress.587.last_ack (1m)",
        ),
        (
            '[proper_times.587]\nlast_ack = "4s"',
            "proper_times.587.last_ack: 4s must be at least as long as stress.last_ack (5s)",
        ),
        (
            '[proper_times.587]\nfin_wait = "2m"',
            "forget.fin_wait: 2m must be longer than proper_times.587.fin_wait (2m)",
        ),
    ],
)
def test_refused_with_file_key_and_reason(text: str, message: str) -> None:
    told = refusal(text)
    assert told.startswith("test.toml: ")
    assert message in told
    assert "\n" not in told


def test_history_may_be_short_when_nothing_is_counted_in_it() -> None:
    config = parse('[store]\nhistory_for = "7d"\n[policy]\nblack_after = 0')
    assert config.store.history_for == 7 * 86_400


def test_all_problems_are_told_at_once() -> None:
    told = refusal("""
        [protect]
        slots = -1
        ports = []
        [nonsense]
        [log]
        level = "loud"
        [policy]
        block_max = "1m"
    """)
    assert [line.split(": ")[1] for line in told.splitlines()] == [
        "nonsense",
        "protect.slots",
        "protect.ports",
        "log.level",
        "policy.block_max",
    ]


def test_a_wrong_value_contradicts_nothing_else() -> None:
    told = refusal('[policy]\nblock_for = "x"\nblock_max = "1m"')
    assert told.splitlines() == [
        'test.toml: policy.block_for: "x" is no duration; write it as "90s", "15m", "2h" or "7d"'
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[protect]\nslots = ", "line 2"),
        (b"[protect]\nslots = 1\nslots = 2", "line 3"),
        (b"slots = \xff", "isn't UTF-8 text (byte 8)"),
        (b"\x00", "isn't TOML"),
        (b"x = " + b"9" * 10_000, "isn't TOML"),
        (b"x = " + b"[" * 100_000, "isn't TOML"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.toml: isn't") as caught:
        load(path)
    assert message in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"absent.toml: no such file. .* etc/dpsd.toml|/etc/"
    ) as e:
        load(tmp_path / "absent.toml")
    assert e.value.exit_code == 78
    assert "dpsd.toml explains them all" in str(e.value)


def test_a_folder_or_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "dpsd.toml"):
        with pytest.raises(ConfigError, match=r"can't be read: .* directory"):
            load(path)


def test_an_unreadable_file_is_a_matter_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.toml"
    path.touch(mode=0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(self: Path) -> bytes:
            raise PermissionError(self)

        monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(NotPermitted, match=r"secret\.toml: this user may not read it") as caught:
        load(path)
    assert caught.value.exit_code == 77


@given(st.text())
def test_no_text_brings_down_the_parser(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert str(error).startswith("dpsd.toml: ")  # noqa: PT017 - either outcome is right


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(_VALUES)
def test_every_key_reads_or_refuses_any_value(value: object) -> None:
    for section in SECTIONS.values():
        for key in keys_of(section).values():
            try:
                key.kind.read(value)
            except ValueError as error:
                assert str(error).isprintable()  # noqa: PT017 - either outcome is right


# --- durations and sizes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1h30m", 5400),
        ("1w1d1h1m1s", 694_861),
        ("3650d", 315_360_000),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "m", "1.5h", "-1s", "+1s", "1 h", " 1h", "1h ", "1h\n", "1H", "1y", "٣s"),
        *("30m1h", "1h1h", "9" * 5000 + "s"),
        *("0s", "0w0s", "3651d", "522w", "315360001s"),
    ],
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration|is not between"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.6, "1m"),
        (90, "1m30s"),
        (600, "10m"),
        (5400, "1h30m"),
        (90_061, "1d1h1m1s"),
        (7 * 86_400, "7d"),
        (90 * 86_400, "90d"),
    ],
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 315_360_000))
def test_a_duration_is_shown_as_it_is_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_sizes() -> None:
    assert [parse_size(t) for t in ("1KiB", "128MiB", "1GiB")] == [1 << 10, 128 << 20, 1 << 30]
    for text in ("", "128", "128MB", "128 MiB", "-1KiB", "1.5GiB", "1kib"):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(text)


# --- what changed -------------------------------------------------------------------------------


def test_what_changed_and_what_of_it_needs_a_restart() -> None:
    old = Config()
    assert changed(old, Config()) == []
    new = parse(
        '[store]\nurl = "sqlite:////tmp/x"\n[protect]\nslots = 7\n[peers]\nipv4_prefix = 24'
    )
    assert changed(old, new) == ["protect.slots", "peers.ipv4_prefix", "store.url"]
    assert needs_restart(old, new) == ["peers.ipv4_prefix", "store.url"]
    assert needs_restart(old, replace(old, protect=new.protect)) == []


# --- where metrics are served -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9975", ("127.0.0.1", 9975)),
        ("127.3.2.1:1", ("127.3.2.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("unix:/run/dpsd/metrics.sock", Path("/run/dpsd/metrics.sock")),
        ("/run/dpsd/metrics.sock", Path("/run/dpsd/metrics.sock")),
    ],
)
def test_metrics_are_served_on_this_host_or_nowhere(text: str, address: object) -> None:
    config = parse(f'[metrics]\nlisten = "{text}"')
    assert config.metrics.address == address
    assert bool(needs_restart(Config(), config)) is bool(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0:9975", "loopback"),
        ("192.0.2.1:9975", "192.0.2.1 can be reached by others"),
        ("[::]:9975", "loopback"),
        ("[2001:db8::1]:9975", "loopback"),
        ("localhost:9975", "127.0.0.1:PORT"),
        ("::1:9975", "127.0.0.1:PORT"),
        ("127.0.0.1", "127.0.0.1:PORT"),
        ("127.0.0.1:0", "127.0.0.1:PORT"),
        ("127.0.0.1:65536", "127.0.0.1:PORT"),
        ("127.0.0.1.5:9975", "metrics.listen"),
        ("unix:run/metrics.sock", "127.0.0.1:PORT"),
        ("unix:/run/dpsd/", "127.0.0.1:PORT"),
        ("/run/" + 103 * "x", "at most 107 bytes"),
        ("9975", "127.0.0.1:PORT"),
    ],
)
def test_metrics_are_never_served_to_others(text: str, why: str) -> None:
    told = refusal(f'[metrics]\nlisten = "{text}"')
    assert "metrics.listen" in told
    assert why in told


# --- the texts agree with the code --------------------------------------------------------------

_HINT = "run: python -m dpsd.config.reference"


def test_the_example_file_is_up_to_date() -> None:
    assert shipped("etc/dpsd.toml").read_text() == reference.toml(), _HINT


def test_the_example_file_is_valid_as_it_is_and_with_every_key_in_force() -> None:
    text = shipped("etc/dpsd.toml").read_text()
    assert parse(text) == Config()
    in_force = "".join(
        line.removeprefix("#") if line[:1] == "#" and line[1:2] != " " else line
        for line in text.splitlines(keepends=True)
    )
    assert parse(in_force) == Config()
    found = {section: set(keys) for section, keys in tomllib.loads(in_force).items()}
    assert found == {section: set(keys_of(cls)) for section, cls in SECTIONS.items()}


def test_the_manual_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    _, mark, rest = page.read_text().partition(reference.MARK)
    assert mark
    assert rest == "\n" + reference.markdown(), _HINT


def test_every_key_and_section_is_explained() -> None:
    for cls in SECTIONS.values():
        assert (cls.__doc__ or "").rstrip().endswith(".")
        for name, key in keys_of(cls).items():
            assert key.doc.endswith("."), name
