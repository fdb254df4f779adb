"""anyio's asyncio backend on ffloop: an echo server and a client. `python examples/anyio_echo.py`.

Needs `pip install . anyio`, in a checkout.
"""

import anyio
from anyio.abc import SocketAttribute, SocketStream

import ffloop


async def echo(stream: SocketStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def main() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"hello")
            print("echoed:", (await stream.receive()).decode(), "through", ffloop.instance())
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend_options={"loop_factory": ffloop.new_event_loop})
