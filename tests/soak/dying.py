"""dpsd's child for libnftables, which dies when the file that DPSD_FAULTS names says so."""

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

CHILD = Path(__file__).parents[2] / "dpsd" / "kernel" / "nftset" / "child.py"


def main() -> None:
    """Answer as child.py does."""
    spec = importlib.util.spec_from_file_location("child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    import nftables  # noqa: PLC0415 - as late as the child does

    real = nftables.Nftables.cmd

    def cmd(self: Any, commands: str) -> Any:
        if "SIGSEGV" in Path(os.environ["DPSD_FAULTS"]).read_text():
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(self, commands)

    nftables.Nftables.cmd = cmd
    child.main()


if __name__ == "__main__":
    main()
