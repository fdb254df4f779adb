"""grpc.aio has sockets and threads of its own, on the kernel: it coexists with ffloop's."""

import asyncio

import pytest
from loop.util import HOST

grpc = pytest.importorskip("grpc")
aio = pytest.importorskip("grpc.aio")

_METHODS = "test.Echo"


class Echo(grpc.GenericRpcHandler):
    """Methods of bytes, without generated code."""

    def service(self, details):
        return {
            f"/{_METHODS}/One": grpc.unary_unary_rpc_method_handler(self.one),
            f"/{_METHODS}/Many": grpc.stream_stream_rpc_method_handler(self.many),
            f"/{_METHODS}/Never": grpc.unary_unary_rpc_method_handler(self.never),
        }.get(details.method)

    async def one(self, request, context):
        await asyncio.sleep(0)
        return request[::-1]

    async def many(self, requests, context):
        async for request in requests:
            yield request

    async def never(self, request, context):
        await asyncio.Event().wait()


async def tcp_echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


def test_grpc_beside_the_stack(run_ff):
    async def main():
        server = aio.server()
        server.add_generic_rpc_handlers((Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        tcp = await asyncio.start_server(tcp_echo, HOST, 0)

        async def beside():
            reader, writer = await asyncio.open_connection(*tcp.sockets[0].getsockname())
            for i in range(50):
                writer.write(b"%03d" % i)
                assert await reader.readexactly(3) == b"%03d" % i
            writer.close()

        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            one = channel.unary_unary(f"/{_METHODS}/One")
            many = channel.stream_stream(f"/{_METHODS}/Many")
            never = channel.unary_unary(f"/{_METHODS}/Never")

            async def ask(i):
                assert await one(b"word %d" % i) == (b"word %d" % i)[::-1]

            async def stream():
                call = many(iter([b"%d" % i for i in range(50)]))
                assert [part async for part in call] == [b"%d" % i for i in range(50)]

            await asyncio.gather(*map(ask, range(50)), stream(), beside(), beside())
            with pytest.raises(aio.AioRpcError) as caught:
                await never(b"", timeout=0.05)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await server.stop(None)
        tcp.close()

    run_ff(main())
