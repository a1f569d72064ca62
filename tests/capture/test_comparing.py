"""Two policies on one capture: whom each lists, when, and what differs."""

from datetime import datetime

from dpsd.capture import compare
from dpsd.cli.comparing import comparison
from dpsd.config import parse
from tests.capture.test_capture import GUILTY
from tests.captures import scenes

HOLDER, VANISHER = scenes.capture("holder"), scenes.capture("vanisher")
VANISHED = (
    'evidence.calm_cost = 1\nproper_times.last_ack = "1s"\nstress.last_ack = "1s"\n'
    "policy.block_at = "
)


def test_the_same_policy_gives_the_same() -> None:
    config = scenes.config("holder")
    found = compare(config, config, HOLDER)
    assert found["keys"] == []
    assert found["summary"] == {"both": 2, "policy": 0, "against": 0}
    for each in found["peers"]:
        assert each["policy"] == each["against"]
        assert (each["listed_by"], each["later"]) == ("both", 0.0)
    assert "They are the same policy." in list(comparison(found, "a.toml", "b.toml"))


def test_a_stricter_policy_lists_earlier() -> None:
    found = compare(parse(f"{VANISHED}14"), parse(f"{VANISHED}6"), VANISHER)
    assert found["keys"] == ["policy.block_at"]
    assert found["summary"] == {"both": 2, "policy": 0, "against": 0}
    for each in found["peers"]:
        first, other = each["policy"][0], each["against"][0]
        then, sooner = (datetime.fromisoformat(verdict["at"]) for verdict in (first, other))
        assert each["later"] == round((sooner - then).total_seconds(), 3) < 0
        assert "the limit is 14" in first["reason"]
        assert "the limit is 6" in other["reason"]
    lines = list(comparison(found, "a.toml", "b.toml"))
    assert lines[:2] == [
        "Listed by both: 2. Only by a.toml: 0. Only by b.toml: 0.",
        "They differ in policy.block_at.",
    ]
    later = abs(found["peers"][0]["later"])
    at = found["peers"][0]["policy"][0]["at"]
    assert lines[3] == f"10.99.128.3, listed by both, {later:.1f} s earlier by b.toml"
    assert lines[4].startswith(f"  a.toml  {at}  block for 10 min: ")


def test_whom_only_one_lists() -> None:
    strict = scenes.config("holder")
    spare = parse(
        'policy.block_at = 20\nevidence.calm_cost = 1\nproper_times.established = "1s"\n'
        'lists.white = ["10.99.128.1"]'
    )
    found = compare(strict, spare, HOLDER)
    assert found["summary"] == {"both": 1, "policy": 1, "against": 0}
    assert {each["peer"]: each["listed_by"] for each in found["peers"]} == {
        "10.99.128.1": "policy",
        "2001:db8:a800:1::/64": "both",
    }
    swapped = compare(spare, strict, HOLDER)
    assert swapped["summary"] == {"both": 1, "policy": 0, "against": 1}
    (only,) = (each for each in swapped["peers"] if each["listed_by"] == "against")
    assert (only["later"], only["policy"]) == (None, [])
    assert "  a.toml  not listed" in list(comparison(swapped, "a.toml", "b.toml"))


def test_peers_come_in_the_order_of_their_first_verdict() -> None:
    found = compare(scenes.config("churner"), scenes.config("honest"), scenes.capture("churner"))
    first = [min(v["at"] for v in (*e["policy"], *e["against"])) for e in found["peers"]]
    assert first == sorted(first)
    assert {each["peer"] for each in found["peers"]} == GUILTY["churner"]


def test_two_times_the_same_peer_is_told() -> None:
    brief = parse(f"{VANISHED}4\npolicy.block_for = '1s'\npolicy.block_max = '1s'")
    found = compare(brief, parse(f"{VANISHED}4"), VANISHER)
    first = found["peers"][0]
    assert len(first["policy"]) > len(first["against"]) == 1
    more = f"; and {len(first['policy']) - 1} more, the last on block"
    assert list(comparison(found, "a.toml", "b.toml"))[4].endswith(more)
