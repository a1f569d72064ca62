"""Port: how many sessions one protected port has, by what counts."""


class Port:
    """Sessions to one port. established: those that nobody has begun to close; keeping: that keep a
    slot or wait for one, which are all but those that the server has closed, or never knew; going:
    that are being ended."""

    __slots__ = ("established", "going", "keeping")

    def __init__(self) -> None:
        self.established = self.going = self.keeping = 0
