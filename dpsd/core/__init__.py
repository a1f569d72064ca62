"""The pure core: events and the time go in, changes come out. No socket, clock, file, database."""
