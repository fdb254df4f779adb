"""kill -9 at random moments under load, on F-Stack; FFLOOP_FSTACK_FULL=1 kills 200 times.

Two instances live on two networks, each asleep for a while where it has nothing to do, so that they
leave the processors to the others. 200 times their huge pages would not fit: those of the dead are
free again.
"""

import asyncio
import socket
from typing import Any

import pytest
from kills.world import LIMIT, Streams, live_and_die

from fstack import net

KILLS = 200 if net.FULL else 9


class OnFstack:
    """See kills.world.OnHost."""

    host = net.STACK
    tells_peers = False  # F-Stack goes with its connections: the next one resets them

    def __init__(self, nets: dict[str, net.Net]) -> None:
        self.instances = {
            name: net.Instance(each, *net.SHORT_FORM, "--idle-sleep", "100", up=False)
            for name, each in nets.items()
        }

    def path(self, name: str) -> str:
        return self.instances[name].path

    async def instance(self, name: str) -> Any:
        one = self.instances[name]
        one.launch()
        came_up = asyncio.get_running_loop().run_in_executor(None, one.come_up)
        await asyncio.wait_for(came_up, LIMIT)
        return one

    async def connect(self, name: str, port: int) -> Streams:
        with net.within(self.instances[name].net.peer):
            sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self.host, port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)


@pytest.mark.timeout(120 + 5 * KILLS)
def test_kills(fstack: Any) -> None:
    fstack.close()  # it would keep a processor busy
    other = net.Net()
    try:
        where = OnFstack({"a": fstack.net, "b": other})
        asyncio.run(live_and_die(where, KILLS, quiet=5.0 if net.FULL else 1.0))
    finally:
        other.close()
        fstack.start()
