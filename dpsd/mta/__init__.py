"""The mail server on this host: how many sessions it can hold, and whom it trusts.

slots.py     a pool of slots, and where its number came from
postfix.py   what postconf's output means
asking.py    runs the commands
"""

from dpsd.mta.asking import Mta, ask
from dpsd.mta.slots import ASSUMED, Slots, assumed

__all__ = ["ASSUMED", "Mta", "Slots", "ask", "assumed"]
