"""The load where wrk is not installed: `client.py HOST PORT CONNECTIONS SECONDS`.

Each connection has one request under way. On the kernel's sockets, with uvloop where it is
installed; one process, whose own speed bounds the requests a second. Prints what report.lua does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """Asks again when an answer is whole. Times in nanoseconds."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.missing = -1  # bytes of the answer; -1: its head is not whole
        self.head = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.missing, self.head = -1, b""
        self.asked = time.perf_counter_ns()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.load.bytes += len(data)
        if self.missing < 0:
            self.head += data
            head, end, body = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                self.load.errors += 1
                self.transport.abort()
                return
            self.missing = int(length[1]) - len(body)
        else:
            self.missing -= len(data)
        if self.missing == 0:
            self.load.latencies.append(time.perf_counter_ns() - self.asked)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.over:
            self.load.errors += 1


class Load:
    def __init__(self) -> None:
        self.latencies: list[int] = []
        self.bytes = self.errors = 0
        self.over = False

    async def run(self, host: str, port: int, connections: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        made = await asyncio.gather(
            *(loop.create_connection(lambda: Client(self), host, port) for _ in range(connections))
        )
        await asyncio.sleep(seconds)
        passed, self.over = time.perf_counter() - began, True
        for transport, _ in made:
            transport.abort()
        times = sorted(self.latencies) or [0]
        said = {
            "requests": len(self.latencies),
            "seconds": passed,
            "bytes": self.bytes,
            "p50": times[len(times) // 2] / 1000,
            "p99": times[len(times) * 99 // 100] / 1000,
            "errors": self.errors,
        }
        print(f"RESULT {json.dumps(said)}", flush=True)


def main() -> None:
    factory: Any = asyncio.SelectorEventLoop
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory = uvloop.new_event_loop
    host, port, connections, seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(Load().run(host, int(port), int(connections), float(seconds)))


if __name__ == "__main__":
    main()
