"""redis-server under the shim, with the configuration of examples/redis."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import EXAMPLES, FULL, free_port, need, running, until
from shim import Instance

pytestmark = pytest.mark.timeout(120)
COUNT = 20000 if FULL else 2000


@pytest.fixture
def redis(instance: Instance, tmp_path: Path) -> Iterator[int]:
    """Its port."""
    port = free_port()
    command = [need("redis-server"), str(EXAMPLES / "redis" / "redis.conf")]
    command += ["--port", str(port), "--dir", str(tmp_path)]
    with running(instance, port, *command):
        yield port


@pytest.mark.parametrize("client", ["on the stack", "on the kernel"])
def test_standard_benchmark(redis: int, instance: Instance, client: str) -> None:
    """redis-benchmark's standard set, io-threads 4."""
    under = instance.environment()
    if client == "on the kernel":
        del under["LD_PRELOAD"]
    done = subprocess.run(
        [need("redis-benchmark"), "-p", str(redis), "-q", "-n", str(COUNT), "-P", "4"],
        env=under, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "Error" not in done.stdout + done.stderr
    assert done.stdout.count("requests per second") >= 18, done.stdout


def test_bgsave(redis: int, instance: Instance, tmp_path: Path) -> None:
    """A fork in the middle of load; the answers go on."""
    under = instance.environment()

    def ask(*words: str) -> str:
        done = subprocess.run(
            [need("redis-cli"), "-p", str(redis), *words],
            env=under, capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        return done.stdout

    bench = [need("redis-benchmark"), "-p", str(redis), "-q", "-n", str(5 * COUNT), "-t", "set,get"]
    with subprocess.Popen(bench, env=under, stdout=subprocess.PIPE, text=True) as load:
        for _ in range(3):
            assert "started" in ask("bgsave")
            until(lambda: "rdb_bgsave_in_progress:0" in ask("info", "persistence"))
        assert load.stdout
        assert load.stdout.read().count("requests per second") == 2
    assert "rdb_last_bgsave_status:ok" in ask("info", "persistence")
    assert (tmp_path / "dump.rdb").exists()
