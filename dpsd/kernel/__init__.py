"""Everything that speaks netlink: it knows the core's events and changes, nothing of the store."""
