"""Manual pages: troff with the macros of man(7), from plain text.

Functions named for a part of a page give its lines; joined() makes the page of them. literal(),
bold() and usage() give what stands within a line.
"""

import re
from collections.abc import Iterable
from textwrap import wrap

from dpsd import __version__

# What is written as it has to be typed: `code`, or a long option.
_CODE = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][\w-]*)")
_LITERAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


def title(name: str, number: int, volume: str) -> str:
    """The first lines of a page: its name, its section of the manual, and that one's title.

    No date: the page is as old as the version that it names.
    """
    written_by = r".\" Generated from the sources of dpsd; changes here are lost."
    return f'{written_by}\n.TH {name.upper()} {number} "" "dpsd {__version__}" "{volume}"\n'


def joined(parts: Iterable[str]) -> str:
    """A page from its parts. Behind a heading a paragraph begins by itself."""
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", "".join(parts), flags=re.MULTILINE)


def section(name: str) -> str:
    """The heading of a section."""
    return f".SH {name.upper()}\n"


def subsection(name: str) -> str:
    """The heading of a subsection, made by literal() or usage()."""
    return f".SS {name}\n"


def paragraph(text: str) -> str:
    """A paragraph of prose, filled; `code` and long options are set in bold."""
    return f".PP\n{_filled(text)}"


def item(term: str, text: str) -> str:
    """A term, from bold() or usage(), and what it means."""
    return f".TP\n{term}\n{_filled(text)}"


def more(text: str) -> str:
    """One more line below the text of an item."""
    return f".br\n{_filled(text)}"


def example(lines: Iterable[str]) -> str:
    """Lines as they have to be typed, indented."""
    shown = "".join(f"{_safe(literal(line))}\n" for line in lines)
    return f".PP\n.RS 4\n.EX\n{shown}.EE\n.RE\n"


def see_also(pages: Iterable[tuple[str, int]]) -> str:
    """The section that names other pages."""
    *others, last = [f".BR {literal(name)} ({number})" for name, number in pages]
    return section("See also") + "".join(f"{other},\n" for other in others) + f"{last}\n"


def literal(text: str) -> str:
    """A text so that it can be copied from the page: hyphens stay ASCII, nothing is a command."""
    return "".join(_LITERAL.get(c, c) for c in text)


def bold(text: str) -> str:
    """A text as it has to be typed, or as it stands in a file."""
    return rf"\fB{literal(text)}\fR"


def usage(text: str) -> str:
    """How a command is called: words in capitals stand for something, what is in [] may be left."""
    return "".join(map(_word, re.split(r"([\s\[\]|,]+)", text)))


def _word(word: str) -> str:
    if not re.search(r"\w", word):
        return literal(word)
    return rf"\fI{word}\fR" if re.fullmatch(r"[A-Z]+", word) else bold(word)


def _filled(text: str) -> str:
    prose, start = "", 0
    for code in _CODE.finditer(text):
        prose += text[start : code.start()].replace("\\", r"\e")
        prose += bold(code[1] or code[2])
        start = code.end()
    prose += text[start:].replace("\\", r"\e")
    lines = wrap(prose, 80, break_on_hyphens=False, break_long_words=False)
    return "".join(f"{_safe(line)}\n" for line in lines)


def _safe(line: str) -> str:
    """A line that is no request, whatever it begins with."""
    return rf"\&{line}" if line[:1] in {".", "'"} else line
