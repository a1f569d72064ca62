"""The lab: a mail host, honest senders and attackers in private namespaces (design 7)."""
