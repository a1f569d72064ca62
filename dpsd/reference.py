"""The tables in docs/detection.md that are written from the rules in dpsd/core/evidence.py.

`python -m dpsd.reference` writes them anew, in a checkout: what stands between a line
`<!-- made: NAME -->` and the next `<!-- end -->`.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from dpsd.core.evidence import RULES, Excuse
from dpsd.paths import shipped

PAGE = "docs/detection.md"

_MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def evidence() -> str:
    """What each kind of evidence is, in which words it is told, what is free, and what it costs."""
    rows = (
        (
            f"`{kind}`",
            rule.trigger,
            ", ".join(f"*{words.format(were='were')}*" for words in rule.did.values()),
            rule.free or "-",
            rule.cost,
        )
        for kind, rule in RULES.items()
    )
    return _table(("kind", "what it is", "told as", "free", "cost in slot-seconds"), rows)


def excuses() -> str:
    """Why a session isn't charged, and which kinds of evidence that is for."""
    rows = (
        (
            _sentence(excuse),
            ", ".join(f"`{kind}`" for kind, rule in RULES.items() if excuse in rule.excuses),
        )
        for excuse in Excuse
    )
    return _table(("not charged:", "for"), rows)


TABLES: Mapping[str, Callable[[], str]] = {"evidence": evidence, "excuses": excuses}
"""The tables by their names in the page."""


def written(page: str) -> str:
    """A page with its tables written anew. KeyError: a table that nobody makes."""
    return _MADE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = (heads, ["---"] * len(heads), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sentence(excuse: Excuse) -> str:
    return f"{excuse.value[0].upper()}{excuse.value[1:]}."


def main() -> None:
    """Write the tables."""
    page = shipped(PAGE)
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
