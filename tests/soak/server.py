"""A mail server with so many slots: who finds none waits in the kernel's queue, as with Postfix.

python -m tests.soak.server --slots 30        (in the mail host's namespace; says "ready")
"""

import argparse
import asyncio
import contextlib
import socket

from tests.lab.limits import many_files
from tests.lab.smtp import serve_one

PATIENCE = 60.0  # seconds that a peer may say nothing


async def serve(slots: int, port: int) -> None:
    """Serve for ever."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True,
                                    backlog=4096)  # fmt: skip
    listener.setblocking(False)
    free = asyncio.Semaphore(slots)
    serving = set[asyncio.Task[None]]()
    print("ready", flush=True)
    while True:
        await free.acquire()
        try:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError:  # it was ended while it waited
            free.release()
            continue
        task = asyncio.create_task(_session(accepted))
        serving.add(task)
        task.add_done_callback(serving.discard)
        task.add_done_callback(lambda _: free.release())


async def _session(accepted: socket.socket) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(sock=accepted)
        try:
            async with asyncio.timeout(PATIENCE):
                await serve_one(reader, writer)
        finally:
            writer.transport.abort()
    accepted.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=30)
    parser.add_argument("--port", type=int, default=25)
    given = parser.parse_args()
    many_files()
    asyncio.run(serve(given.slots, given.port))


if __name__ == "__main__":
    main()
