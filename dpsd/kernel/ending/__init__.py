"""Ending live sessions, wherever the mail server is.

Where a session really ends is asked of conntrack when it is to be ended (entries): the core knows
it by the original direction's addresses and ports only, so events cost nothing for it. A socket of
this network namespace is ended by SOCK_DESTROY (dpsd.kernel.sockdiag), also behind a REDIRECT.
Everything else on the path, a container or a server behind this gateway, is ended by challenge
ACKs (challenges, rule). Each end is verified before it counts.
"""
