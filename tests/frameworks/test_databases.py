"""redis-py's asyncio client and asyncpg, each with its real server, from Debian's packages.

The servers run as a user without privilege, in a directory of their own, on ports of their own."""

import asyncio
import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest
from loop.util import PEER

from .util import on_stack, unused_port


@pytest.fixture
def own_directory():
    """A directory, and how to run a command there as somebody who is not root."""
    as_nobody = {}
    with tempfile.TemporaryDirectory(prefix="ffloop-db-") as name:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(name, nobody.pw_uid, nobody.pw_gid)
            as_nobody = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": []}
        options = {"cwd": name, "stdin": -3, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        yield pathlib.Path(name), {**options, **as_nobody}


@contextlib.contextmanager
def running(argv, port, stop, options):
    with subprocess.Popen(argv, stdout=-3, stderr=-3, start_new_session=True, **options) as popen:
        try:
            while True:
                assert popen.poll() is None, f"{argv[0]} ended"
                with contextlib.suppress(OSError):
                    socket.create_connection((PEER, port)).close()
                    break
                time.sleep(0.02)
            yield
        finally:
            popen.send_signal(stop)
            popen.wait()


# ---- redis ----


@pytest.fixture
def redis_port(own_directory):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    _, options = own_directory
    port = unused_port()
    argv = [program, "--port", str(port), "--bind", PEER, "--protected-mode", "no"]
    argv += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    with running(argv, port, signal.SIGTERM, options):
        yield port


def test_redis(request, run_ff):
    redis = pytest.importorskip("redis.asyncio")
    port = request.getfixturevalue("redis_port")
    big = os.urandom(3 << 20)

    async def main():
        async with redis.Redis(host=PEER, port=port) as client:
            assert await client.ping()
            await client.set("a", big)
            assert await client.get("a") == big
            for _ in range(4):
                await asyncio.gather(*(client.incr("n") for _ in range(50)))
            assert await client.get("n") == b"200"
            async with client.pipeline(transaction=True) as pipe:
                for i in range(500):
                    pipe.rpush("list", i)
                pipe.llen("list")
                assert (await pipe.execute())[-1] == 500
            with pytest.raises(redis.ResponseError, match="not an integer"):
                await client.incr("a")

            async with client.pubsub() as pubsub:
                await pubsub.subscribe("news")
                heard = pubsub.listen()
                assert (await anext(heard))["type"] == "subscribe"
                for i in range(10):
                    await client.publish("news", f"item {i}")
                for i in range(10):
                    assert (await anext(heard))["data"] == b"item %d" % i

            waiting = asyncio.create_task(client.blpop("queue", timeout=0))
            await asyncio.sleep(0)
            await client.rpush("queue", "x")
            assert await waiting == (b"queue", b"x")

            connection = await client.connection_pool.get_connection()
            assert on_stack(connection._writer.transport)
            await client.connection_pool.release(connection)
            # The server drops every connection: the client connects again.
            with contextlib.suppress(redis.ConnectionError):
                await client.client_kill_filter(skipme=False)
            assert await client.get("n") == b"200"

    run_ff(main())


# ---- postgresql ----


def postgres_program(name):
    """As Debian lays it out, or from PATH."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(installed[-1]) if installed else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: postgresql)")
    return found


@pytest.fixture
def postgres(own_directory):
    directory, options = own_directory
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    data = directory / "data"
    argv = [initdb, "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(argv, check=True, stdout=-3, **options)
    with (data / "pg_hba.conf").open("a") as hba:
        hba.write("host all all all trust\n")
    port = unused_port()
    argv = [server, "-D", data, "-h", PEER, "-p", str(port), "-k", directory, "-F"]
    with running(argv, port, signal.SIGINT, options):
        yield {"host": PEER, "port": port, "user": "tester", "database": "postgres", "ssl": False}


async def ready(asyncpg, where):
    while True:
        try:
            return await asyncpg.connect(**where)
        except asyncpg.CannotConnectNowError:
            await asyncio.sleep(0.02)


def test_asyncpg(request, run_ff):
    asyncpg = pytest.importorskip("asyncpg")
    where = request.getfixturevalue("postgres")
    big = os.urandom(2 << 20)

    async def main():
        db = await ready(asyncpg, where)
        assert on_stack(db._transport)
        await db.execute("CREATE TABLE t (id int PRIMARY KEY, body bytea)")
        await db.executemany("INSERT INTO t VALUES ($1, $2)", [(i, b"%d" % i) for i in range(1000)])
        assert await db.fetchval("SELECT count(*) FROM t") == 1000
        await db.execute("UPDATE t SET body = $1 WHERE id = 7", big)
        assert await db.fetchval("SELECT body FROM t WHERE id = $1", 7) == big

        async with db.transaction():
            rows = [row["id"] async for row in db.cursor("SELECT id FROM t ORDER BY id")]
        assert rows == list(range(1000))
        with pytest.raises(asyncpg.UniqueViolationError):
            await db.execute("INSERT INTO t VALUES (1, '')")

        # Cancelling goes over a connection of its own.
        with pytest.raises(asyncio.TimeoutError):
            await db.execute("SELECT pg_sleep(60)", timeout=0.1)
        assert await db.fetchval("SELECT 1") == 1

        copied = await db.copy_records_to_table(
            "t", records=[(i, b"copied") for i in range(2000, 7000)]
        )
        assert copied == "COPY 5000"

        heard = asyncio.get_running_loop().create_future()
        await db.add_listener("news", lambda *args: heard.set_result(args[3]))
        async with asyncpg.create_pool(**where, min_size=4, max_size=4) as pool:
            answers = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int", i) for i in range(200))
            )
            assert answers == list(range(200))
            await pool.execute("NOTIFY news, 'hello'")
            assert await heard == "hello"
        await db.close()

    run_ff(main())
