"""A user's program over ffloop's public names, for `mypy --strict` (see .ci/run); also runs."""

import asyncio
import socket
from typing import Any, assert_type

import ffloop
import ffloop.kqueue


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main() -> str:
    info: ffloop.InstanceInfo = ffloop.instance()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ffloop.Loop)
    counters: dict[str, int] = loop.ffloop_stats()
    assert all(count >= 0 for count in counters.values())
    lag: ffloop.LoopLag = loop.ffloop_lag()
    assert lag.seconds >= 0
    server: asyncio.Server = await loop.create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\n")
    line: bytes = await reader.readline()
    writer.close()
    await writer.wait_closed()
    await types(loop, host, port)
    server.close()
    await server.wait_closed()
    return f"{line.decode().strip()} over {info.stack}"


async def types(loop: ffloop.Loop, host: str, port: int) -> None:
    """What the loop gives is typed no worse than what asyncio's gives."""
    transport, protocol = await loop.create_connection(Echo, host, port)
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Echo)
    transport.close()
    udp, datagrams = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    assert_type(udp, asyncio.DatagramTransport)
    assert_type(datagrams, asyncio.DatagramProtocol)
    udp.close()
    with ffloop.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        served = await loop.create_server(Echo, sock=listener, dual_listen=False)
        assert_type(served, asyncio.Server)
        served.close()
    with ffloop.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (host, port))
        await loop.sock_sendall(client, b"hello")
        assert_type(await loop.sock_recv(client, 5), bytes)
    assert_type(await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False), asyncio.Server)
    found = await loop.getaddrinfo("127.0.0.1", 80)
    family: socket.AddressFamily = found[0][0]
    assert family == socket.AF_INET
    assert_type(ffloop.kqueue.KQ_FILTER_READ, int)
    assert_type(ffloop.KQ_FILTER_READ, int)  # as it was spelt once


def mistakes() -> None:
    """Each is an error for mypy (an ignore that is not needed would be one as well)."""
    more: dict[str, Any] = {}
    ffloop.new_event_loop(instnace="/x")  # type: ignore[call-arg]
    ffloop.Loop(stack="linux")  # type: ignore[arg-type]
    ffloop.install(spin_us="fast")  # type: ignore[arg-type]
    ffloop.new_event_lop()  # type: ignore[attr-defined]
    ffloop.FFLoopPolicy(pool_kib="1")  # type: ignore[arg-type]
    ffloop.new_event_loop(**more)
    options: ffloop.LoopOptions = {"stack": "host", "reconect": True}  # type: ignore[typeddict-unknown-key]
    ffloop.new_event_loop(**options)


def run() -> list[str]:
    said: list[str] = [ffloop.run(main(), debug=False, stack="host", kernel_sockets="kernel")]
    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        said.append(runner.run(main()))
    try:
        ffloop.Loop(instance="/no/such/instance")
    except ffloop.InstanceNotFound as exc:
        error: OSError = exc
        said.append(type(error).__name__)
    except ffloop.InstanceError:
        raise
    return said


if __name__ == "__main__":
    print("; ".join(run()))
