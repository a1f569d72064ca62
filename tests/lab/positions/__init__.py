"""Where the mail server is, and dpsd on its path: networks, runs, and docs/positions.md of them."""
