"""A server that tests replace under load, as a script: arguments HOST PORT [shared].

A request per connection; SIGTERM closes the listener, and the script ends with its connections.
It prints its port. shared: SO_REUSEPORT.
"""

PROGRAM = """
import asyncio, os, signal, sys

class Answer(asyncio.Protocol):
    open = 0
    def connection_made(self, transport):
        Answer.open += 1
        self.transport = transport
    def data_received(self, data):
        body = '{"pid": %d}' % os.getpid()
        head = f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
        self.transport.write((head + body).encode())
        self.transport.close()
    def connection_lost(self, exc):
        Answer.open -= 1

async def main():
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    host, port, *shared = sys.argv[1:]
    server = await loop.create_server(Answer, host, int(port), reuse_port=bool(shared))
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    while Answer.open:
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


def answer(pid: int) -> bytes:
    """What process `pid` answers."""
    body = b'{"pid": %d}' % pid
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
