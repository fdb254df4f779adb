"""redis-server under the shim, with the configuration of examples/redis."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from common.ports import unused_port
from common.processes import completed
from programs import EXAMPLES, FULL, either_stack, need, running, until
from shim import Instance

pytestmark = either_stack
# Redis's four threads spin for each other: beside other work it answers 80 requests per second,
# natively too.
COUNT = 20000 if FULL else 400


def redis_server(address: str, folder: Path) -> tuple[int, list[str]]:
    """(port, command), with the example's configuration."""
    port = unused_port()
    command = [need("redis-server"), str(EXAMPLES / "redis" / "redis.conf")]
    command += ["--bind", address, "--port", str(port), "--dir", str(folder)]
    return port, [*command, "--protected-mode", "no"]


@pytest.fixture
def redis(instance: Instance, tmp_path: Path) -> Iterator[int]:
    """Its port."""
    port, command = redis_server(instance.address, tmp_path)
    with running(instance, port, *command):
        yield port


@pytest.mark.parametrize("client", ["on the stack", "on the kernel"])
def test_standard_benchmark(redis: int, instance: Instance, client: str) -> None:
    """redis-benchmark's standard set, io-threads 4."""
    under, address = instance.environment(), instance.mirror
    if client == "on the kernel":
        del under["LD_PRELOAD"]
        address = instance.address
    where = ("-h", address, "-p", str(redis))
    command = (need("redis-benchmark"), *where, "-q", "-n", str(COUNT), "-P", "4")
    done = completed(*command, env=under, check=True)
    assert "Error" not in done.stdout + done.stderr
    assert done.stdout.count("requests per second") >= 18, done.stdout


def test_bgsave(redis: int, instance: Instance, tmp_path: Path) -> None:
    """A fork in the middle of load; the answers go on."""
    under = instance.environment()

    def ask(*words: str) -> str:
        where = ("-h", instance.mirror, "-p", str(redis))
        return completed(need("redis-cli"), *where, *words, env=under, check=True).stdout

    def sets() -> int:
        return int(re.search(r"cmdstat_set:calls=(\d+)", ask("info", "commandstats"))[1])  # type: ignore[index]

    bench = [need("redis-benchmark"), "-h", instance.mirror, "-p", str(redis)]
    with subprocess.Popen([*bench, "-l", "-q", "-t", "set"], env=under, stdout=-3) as load:
        try:
            until(lambda: "cmdstat_set:" in ask("info", "commandstats"))
            for _ in range(3):
                assert "started" in ask("bgsave")
                until(lambda: "rdb_bgsave_in_progress:0" in ask("info", "persistence"))
                more = sets() + 100
                until(lambda n=more: sets() > n)
        finally:
            ended = load.poll()
            load.terminate()
    assert ended is None, "the load met an error"
    assert "rdb_last_bgsave_status:ok" in ask("info", "persistence")
    assert (tmp_path / "dump.rdb").exists()
