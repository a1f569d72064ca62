"""The manual page dpsd.toml(5), written from the keys. dpsd.config.reference puts it in place."""

from dpsd import troff
from dpsd.config.kinds import written
from dpsd.config.loading import DEFAULT_PATH, SECTIONS, keys_of

_ABOUT = (
    "The file is in TOML: sections in brackets, and below each its keys, as in `slots = 100`."
    " Every key has a default, so an empty file is a valid one. Most mail hosts need one key,"
    " `white` in `[lists]`, for those that are to be left alone.",
    'Durations are strings: "90s", "15m", "2h", "7d", "2w", or together as in "1h30m"; from one'
    ' second to ten years ("3650d"). Sizes are strings in KiB, MiB or GiB. The unit of costs and'
    " scores, the slot-second, is a second for which a peer kept one of the mail server's slots"
    " busy to no purpose.",
    "Unknown sections and keys are refused, and so are values that contradict each other. `dpsd"
    " check` names everything that is wrong and changes nothing. SIGHUP (`systemctl reload dpsd`)"
    " makes the daemon read the file again; with anything wrong in it, the daemon goes on as"
    " before.",
)
_PAGES = (("dpsd", 8), ("systemctl", 1))


def page() -> str:
    """The text of docs/man/dpsd.toml.5."""
    parts = [
        troff.title("dpsd.toml", 5, "File Formats Manual"),
        troff.section("Name"),
        f"{troff.literal('dpsd.toml')} \\- configuration of dpsd(8)\n",
        troff.section("Synopsis"),
        f".I {troff.literal(str(DEFAULT_PATH))}\n",
        troff.section("Description"),
        *map(troff.paragraph, _ABOUT),
        troff.section("Keys"),
        troff.paragraph("Each key stands here at its default."),
    ]
    for name, cls in SECTIONS.items():
        doc = " ".join((cls.__doc__ or "").split())
        parts += [troff.subsection(troff.literal(f"[{name}]")), troff.paragraph(doc)]
        for key_name, key in keys_of(cls).items():
            parts.append(troff.item(troff.bold(f"{key_name} = {written(key.default)}"), key.doc))
            parts.append(troff.more(key.terms()))
    parts += [
        troff.section("Files"),
        troff.item(troff.usage(str(DEFAULT_PATH)), "The file that is read when no other is named."),
        troff.see_also(_PAGES),
    ]
    return troff.joined(parts)
