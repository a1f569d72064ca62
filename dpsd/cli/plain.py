"""Typer without rich: help and usage errors without boxes and colours, on a terminal and in a pipe.

To import rich takes 5 MB, and longer than all else that a command does.
"""

import sys

_before = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment] # so that there is none to import
import typer  # noqa: E402
import typer.core  # noqa: E402

if _before is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _before

__all__ = ["typer"]
