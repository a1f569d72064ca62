"""The reference of dpsd.toml, written from the keys: etc/dpsd.toml and docs/configuration.md.

`python -m dpsd.config.reference` writes both anew, in a checkout, and the manual page as well.
"""

from collections.abc import Iterator
from textwrap import wrap

from dpsd.config import manual
from dpsd.config.key import Key
from dpsd.config.kinds import written
from dpsd.config.loading import SECTIONS, keys_of
from dpsd.paths import shipped

# Behind this line of docs/configuration.md everything is written by this module.
MARK = "<!-- From here on written by dpsd/config/reference.py -->"

_HEAD = """\
# The configuration of dpsd. Every key stands here at its default; take off the # to change it.
# Durations are "90s", "15m", "2h", "7d", "2w", or together as in "1h30m"; 1s to 3650d.
# `dpsd check` tells what is wrong; `systemctl reload dpsd` makes the daemon read it again.
"""


def toml() -> str:
    """The text of etc/dpsd.toml: every key, commented out at its default, with its explanation."""
    return _HEAD + "".join(
        f"\n{_comment(_section_doc(cls))}[{name}]\n" + "".join(map(_toml_key, *_columns(cls)))
        for name, cls in SECTIONS.items()
    )


def markdown() -> str:
    """The part of docs/configuration.md behind MARK: a section with its keys at a time."""
    return "".join(
        f"\n## [{name}]\n\n{_section_doc(cls)}\n" + "".join(map(_markdown_key, *_columns(cls)))
        for name, cls in SECTIONS.items()
    )


def _columns(cls: type) -> tuple[Iterator[str], Iterator[Key]]:
    return iter(keys_of(cls)), iter(keys_of(cls).values())


def _section_doc(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _toml_key(name: str, key: Key) -> str:
    return f"\n{_comment(key.doc)}{_comment(key.terms())}#{name} = {written(key.default)}\n"


def _markdown_key(name: str, key: Key) -> str:
    return f"\n**`{name} = {written(key.default)}`**\\\n{key.doc}\\\n*{key.terms()}*\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in wrap(text, 97, break_on_hyphens=False))


def main() -> None:
    """Write the files."""
    shipped("etc/dpsd.toml").write_text(toml())
    page = shipped("docs/configuration.md")
    head, mark, _ = page.read_text().partition(MARK)
    page.write_text(f"{head}{mark or MARK}\n{markdown()}")
    shipped("docs/man/dpsd.toml.5").write_text(manual.page())


if __name__ == "__main__":
    main()
