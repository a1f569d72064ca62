"""TLS of the lab's clients, honest or not."""

import ssl
from functools import cache


@cache
def context() -> ssl.SSLContext:
    """One that takes every certificate: the lab's server has one of its own making."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made
