"""The evaluation: what is tried, what results say together, and the page that is made of them."""

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Network
from math import inf
from pathlib import Path

import pytest

from tests.lab.agents import Attack
from tests.lab.defences import DEFENCES
from tests.lab.evaluate import page, pictures
from tests.lab.evaluate.__main__ import BEFORE, PAGE, RESULTS
from tests.lab.evaluate.matrix import ATTACKS, Cell, cells, compared, trial
from tests.lab.evaluate.outcome import (
    Outcome,
    Spread,
    compact,
    line,
    load,
    outcome,
    summaries,
)
from tests.lab.honest import KINDS, plan
from tests.lab.net import ATTACK4, ATTACK6, MAIL6, Net
from tests.lab.postfix import Postfix
from tests.lab.result import Cut, Mail, Result
from tests.lab.trial import run


def made(key: str, delivered: int, **changes: object) -> Outcome:
    """A finished run of ten honest mails."""
    defence, attack, number = key.split("/")
    fresh = Outcome(
        defence, attack, int(number), 30.0, 10, delivered, 2.0, 4, [1.0, 3.0], {},
        {"single": [delivered, 10]}, -1, [1] * 31, [1] * 31, [0] * 31, 0.01, "a machine",
    )  # fmt: skip
    return replace(fresh, **changes)  # type: ignore[arg-type]


def keyed(*runs: Outcome) -> dict[str, Outcome]:
    return {each.cell.key: each for each in runs}


def test_dpsd_goes_through_every_round_of_every_attack() -> None:
    found = {cell.key for cell in cells(["dpsd/*"], rounds=3)}
    assert found == {f"dpsd/{attack}/{n}" for attack in ATTACKS for n in (1, 2, 3)}


@pytest.mark.parametrize("defence", DEFENCES)
def test_every_defence_is_tried_against_every_attack(defence: str) -> None:
    assert [cell.attack for cell in cells([f"{defence}/*/1"])] == [*ATTACKS]
    twice = [name for name, case in ATTACKS.items() if case.others > 1]
    assert [cell.attack for cell in cells(["fail2ban/*/2"])] == twice
    assert not cells(["fail2ban/*/3"])


def test_what_runs_are_compared_with_has_their_rounds() -> None:
    assert compared(cells(["dpsd/hold/[23]"])) == [
        Cell("none", "peace", 2),
        Cell("none", "peace", 3),
    ]


def test_what_a_run_is_compared_with_has_the_same_senders_and_no_attack() -> None:
    for cell in cells():
        mine, its = (trial(each, peace=6, seconds=30) for each in (cell, cell.peace))
        assert its.attacks == ()
        assert (its.slots, its.load, its.home, its.seed) == (
            *(mine.slots, mine.load, mine.home),
            mine.seed,
        )


def test_attacks_at_the_same_time_share_no_source() -> None:
    sources = [address for attack in ATTACKS["mixed"].attacks for address in attack.addresses()]
    assert len(sources) == len(set(sources))


def test_a_hopping_source_stays_within_its_prefix_and_comes_from_another_64_each_time() -> None:
    attack = Attack("hold", sources=1, sessions=400, family="6", within=56)
    found = [attack.address(0, number, visit) for number in range(100) for visit in range(3)]
    assert len({IPv6Network(f"{address}/56", strict=False) for address in found}) == 1
    assert len(set(found)) > 150
    assert all(IPv6Network(f"{address}/128").subnet_of(ATTACK6) for address in found)


def test_a_rotating_source_takes_addresses_that_are_nobody_elses() -> None:
    (attack,) = ATTACKS["rotate"].attacks
    found = [attack.address(source, 0, visit) for source in range(40) for visit in range(200)]
    assert len(set(found)) == len(found) < ATTACK4.num_addresses - 2


def test_every_kind_of_honest_sender_has_mail_and_the_load_stays_what_it_was() -> None:
    mails = plan("world", 1, 36, home=True) + plan("mail", 1, 36)
    assert {mail.kind for mail in mails} == set(KINDS)
    assert 10 < len(mails) / 36 < 15
    few = [plan("world", seed, 36, 0.3, home=True) + plan("mail", seed, 36, 0.3) for seed in (1, 2)]
    assert {mail.kind for each in few for mail in each} == set(KINDS)
    assert all(2.5 < len(each) / 36 < 4.5 for each in few)


def test_the_plan_is_that_of_the_committed_runs() -> None:
    for each in load(RESULTS).values():
        if each.cell == each.cell.peace:
            made = trial(each.cell, peace=-each.start, seconds=each.seconds)
            span = (each.round, made.peace + made.seconds, made.load)
            mails = plan("world", *span, made.home) + plan("mail", *span)
            due = Counter(mail.kind for mail in mails if mail.at >= made.peace)
            assert due == {kind: count for kind, (_, count) in each.kinds.items()}, each.cell.key


def test_an_outcome_counts_what_was_due_during_the_attack() -> None:
    result = Result(
        "",
        2.0,
        [
            Mail(-0.5, "single", "192.0.2.1", True, 0.1, ""),
            Mail(0.5, "single", "192.0.2.2", True, 0.1, ""),
            Mail(1.5, "office", "192.0.2.3", False, 8.0, "gave up", late=0.4),
            Mail(2.5, "single", "192.0.2.4", True, 0.1, ""),
        ],
        [],
        frozenset({"198.51.100.1", "198.51.100.2"}),
        {"198.51.100.1": 1.25, "198.51.100.2": 9.5, "192.0.2.3": 9.5},
        over=9.0,
        cuts=[
            Cut(at, "single", "192.0.2.1", stage)
            for at, stage in ((-0.1, "mail"), (0.1, "start"), (0.2, "mail"), (0.3, "idle"))
        ],
    )
    found = outcome(Cell("fail2ban", "hold", 1), result, "")
    assert (found.due, found.delivered) == (2, 1)
    assert found.kinds == {"office": [0, 1], "single": [1, 1]}
    assert (found.attackers, found.listings) == (2, [1.2])
    assert found.wronged == {"192.0.2.3": "office: banned"}
    assert (found.start, found.due_by_second) == (-1, [1, 1, 1])
    assert found.delivered_by_second == [1, 1, 0]
    assert (found.cut, found.torn) == (3, 1)


def test_under_attacks_on_465_only_the_mail_to_it_counts() -> None:
    mails = [
        Mail(at, kind, "192.0.2.1", kind == "single", 0.1, "")
        for at in (-0.5, 0.5)
        for kind in ("single", "home")
    ]
    result = Result("", 2.0, mails, [], frozenset(), {}, judged=frozenset({"home"}))
    found = outcome(Cell("dpsd", "tlshold", 1), result, "")
    assert (found.due, found.delivered) == (1, 0)
    assert (found.due_by_second, found.delivered_by_second) == ([1, 1, 0], [0, 0, 0])
    assert found.kinds == {"home": [0, 1], "single": [1, 1]}


def test_a_line_of_results_is_read_back_and_a_later_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, again = made("dpsd/hold/1", 5), made("dpsd/hold/1", 9)
    other = made("none/peace/1", 10)
    path.write_text(line(first) + line(other) + line(again))
    assert load(path) == keyed(again, other)
    compact(load(path), [other.cell, again.cell], path)
    keys = [json.loads(each)["attack"] for each in path.read_text().splitlines()]
    assert keys == ["peace", "hold"]


def test_rounds_are_summed_up_against_their_own_peace() -> None:
    said = summaries(
        keyed(
            made("none/peace/1", 10),
            made("none/peace/2", 8),
            made("dpsd/hold/1", 9),
            made("dpsd/hold/2", 8, recovery=None, listings=[2.0], wronged={"192.0.2.1": "why"}),
            made("dpsd/hold/3", 0),  # its peace isn't there
        )
    )
    hold = said["dpsd", "hold"]
    assert hold.rounds == 2
    assert hold.share == Spread(0.95, 0.9, 1.0)
    assert hold.recovery == Spread(inf, 2.0, inf)
    assert hold.listed == Spread(0.375, 0.25, 0.5)
    assert hold.listing == 2.0
    assert hold.wronged == 1
    assert not hold.starved


def test_a_starved_run_is_marked() -> None:
    said = summaries(keyed(made("none/peace/1", 10), made("dpsd/hold/1", 9, late=0.3)))
    assert "90 %\\*" in page.details(said)
    assert "`dpsd/hold/1`" in page.machines(said)


def test_only_the_made_parts_of_the_page_change() -> None:
    said = summaries(keyed(made("none/peace/1", 10), made("dpsd/hold/1", 9)))
    before = "By hand\n<!-- made: details -->\nstale\n<!-- end -->\nas well\n"
    after = page.render(before, said, {})
    assert after.startswith("By hand\n")
    assert after.endswith("as well\n")
    assert "stale" not in after
    row = "| hold: HELO, then silence | 1 | 90 % | 2.0 s | 50 % | 2.0 s | 0 | - |"
    assert row in after.splitlines()
    assert page.render(after, said, {}) == after


def test_before_and_after_stand_beside_each_other() -> None:
    peace = made("none/peace/1", 10)
    before = summaries(keyed(peace, made("dpsd/hold/1", 3, recovery=None)))
    now = summaries(
        keyed(
            peace,
            made("dpsd/hold/1", 9, cut=5, torn=1),
            made("dpsd/hold/2", 9),  # its peace isn't there
            made("dpsd/rcpt/1", 10, cut=0, torn=0),
        )
    )
    assert page.changes(before, now).splitlines()[2:] == [
        "| hold: HELO, then silence | 30 % → 90 % | never → 2.0 s | 50 % → 50 % | 0 → 0 |"
        " - → 5 (1) |",
        "| rcpt: a recipient a second | - → 100 % | - → 2.0 s | - → 50 % | - → 0 | - → 0 (0) |",
    ]


def test_whoever_was_wronged_is_named_with_the_reason() -> None:
    why = "single: 192.0.2.1 is blocked.\nThis decides: 98 slot-seconds: resets 98"
    runs = made("none/peace/1", 10), made("dpsd/hold/1", 9, wronged={"192.0.2.1": why})
    assert page.wronged(summaries(keyed(*runs))) == (
        "- `dpsd/hold/1`: 192.0.2.1, `single`: resets 98"
    )


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    text = PAGE.read_text("utf-8")
    assert page.render(text, summaries(load(RESULTS)), summaries(load(BEFORE))) == text


def test_pictures_are_drawn_from_what_there_is(tmp_path: Path) -> None:
    pictures.draw(summaries(keyed(made("none/peace/1", 10), made("dpsd/hold/1", 9))), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mail.svg", "heat.svg", "listing.svg"}


def test_fail2ban_bans_from_postfix_own_log() -> None:
    attack = Attack("churn", sources=4, sessions=4, family="46", rate=200)
    result = run(DEFENCES["fail2ban"].trial((attack,), 1, peace=1, seconds=3))
    assert result.blocked.keys() == set(attack.addresses())


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as net:
        yield net


def test_postscreen_is_in_front_of_port_25(net: Net) -> None:
    defence = DEFENCES["postscreen"]
    with Postfix(net.mail, defence.port25, **defence.postfix) as postfix:
        assert postfix.greeting().startswith("220-")


def test_ct_count_refuses_the_sixth_session_of_a_64(net: Net) -> None:
    net.mail.run("nft", "-f", "-", stdin=DEFENCES["ctcount"].rules)
    with contextlib.ExitStack() as stack:
        with net.mail.entered():
            stack.enter_context(socket.create_server(("::", 25), family=socket.AF_INET6))
        with net.world.entered():
            for number in range(5):
                there = stack.enter_context(client(f"2001:db8:a800::{number + 1}"))
                assert there.getpeername()[1] == 25
            with pytest.raises(ConnectionRefusedError):
                client("2001:db8:a800::9")
            client("2001:db8:a800:1::9").close()


def client(source: str) -> socket.socket:
    return socket.create_connection((str(MAIL6), 25), 5, source_address=(source, 0))
