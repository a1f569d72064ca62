"""What two policies make of one capture, line by line."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from dpsd.core.story import span

Json = dict[str, Any]


def comparison(found: Json, policy: str, against: str) -> Iterator[str]:
    """What compare() found; the policies' names are those of their files."""
    summary = found["summary"]
    yield (
        f"Listed by both: {summary['both']}. Only by {policy}: {summary['policy']}."
        f" Only by {against}: {summary['against']}."
    )
    keys = ", ".join(found["keys"])
    yield f"They differ in {keys}." if keys else "They are the same policy."
    width = max(len(policy), len(against))
    for each in found["peers"]:
        yield ""
        by = {"both": "both", "policy": policy, "against": against}[each["listed_by"]]
        yield f"{each['peer']}, listed by {by}{_later(each['later'], against)}"
        for name, verdicts in ((policy, each["policy"]), (against, each["against"])):
            yield f"  {name.ljust(width)}  {_verdicts(verdicts)}"


def _later(later: float | None, against: str) -> str:
    if not later:
        return "" if later is None else ", at the same time"
    return f", {abs(later):.1f} s {'later' if later > 0 else 'earlier'} by {against}"


def _verdicts(verdicts: Sequence[Json]) -> str:
    if not verdicts:
        return "not listed"
    first, *more = verdicts
    lasts = "for good"
    if first["expires_at"] is not None:
        start, end = (datetime.fromisoformat(first[key]) for key in ("at", "expires_at"))
        lasts = f"for {span((end - start).total_seconds())}"
    again = f"; and {len(more)} more, the last on {more[-1]['list']}" if more else ""
    return f"{first['at']}  {first['list']} {lasts}: {first['reason']}{again}"
