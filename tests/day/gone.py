"""How a session is over, in the script of a peer that wasn't done with it."""


class Gone(Exception):
    """The session is over before the peer wanted it to be."""


class Ended(Gone):
    """It was reset."""


class Closed(Gone):
    """The server closed it: said 421, and sent its FIN."""
