"""A user's program over ffloop's public names, for `mypy --strict` (see .ci/run); also runs."""

import asyncio

import ffloop


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
    assert counters["submitted"] >= 0
    server: asyncio.Server = await loop.create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\n")
    line: bytes = await reader.readline()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return f"{line.decode().strip()} over {info.stack}"


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
