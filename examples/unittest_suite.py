"""unittest's asynchronous tests on ffloop: `python examples/unittest_suite.py`."""

import asyncio
import sys
import unittest

import ffloop


def setUpModule() -> None:
    if sys.version_info < (3, 13):  # IsolatedAsyncioTestCase has no loop_factory there
        ffloop.install()


class TestOnFFLoop(unittest.IsolatedAsyncioTestCase):
    loop_factory = ffloop.Loop

    async def test_a_connection(self) -> None:
        self.assertIsInstance(asyncio.get_running_loop(), ffloop.Loop)
        server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        self.assertEqual(await reader.read(), b"")
        writer.close()
        server.close()


if __name__ == "__main__":
    unittest.main()
