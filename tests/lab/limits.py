"""What a process of the lab may use."""

import resource


def many_files() -> None:
    """Raise the limit of open files to what is permitted: every session is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
