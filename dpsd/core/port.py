"""Port: how many sessions one protected port has, by what counts."""


class Port:
    """Sessions to one port. established: those that nobody has begun to close; keeping: that keep a
    slot or wait for one, which are all but those that the server has closed, or never knew; served:
    of these, the ones that the server has greeted; going: that are being ended."""

    __slots__ = ("established", "going", "keeping", "served")

    def __init__(self) -> None:
        self.established = self.going = self.keeping = self.served = 0
