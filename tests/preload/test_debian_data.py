"""Servers of Debian that keep, look up or measure (debian.py): streams and datagrams."""

import json
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from debian import HERE, Server, as_root, at_once, by_datagram, same
from programs import need
from shim import Instance


def test_memcached(instance: Instance, tmp_path: Path) -> None:
    """Four threads; small values, a large one, and a datagram."""
    program = need("memcached")

    def talk(server: Server) -> Any:
        def client(number: int) -> list[bytes]:
            seen = []
            with server.connect() as s, s.makefile("rwb") as f:
                for i in range(30):
                    value = b"%d" % (number * i) * (9000 if i == 7 else 1)
                    f.write(b"set k%d.%d 0 0 %d\r\n%s\r\n" % (number, i, len(value), value))
                    f.write(b"get k%d.%d\r\n" % (number, i))
                    f.flush()
                    seen += [f.readline() for _ in range(4)]
            return seen

        return at_once(8, client), by_datagram(server.port, b"\0\1\0\0\0\1\0\0get none\r\n")

    def command(port: int) -> list[str]:
        return [program, "-u", "root", "-l", HERE, "-p", str(port), "-U", str(port), "-t", "4"]

    same(instance, tmp_path / "log", command, talk)


@pytest.mark.parametrize(
    "what", [["-P", "4"], ["-R"], ["-C", "reno"], ["-u", "-b", "50M"]], ids=" ".join
)
def test_iperf3(instance: Instance, tmp_path: Path, what: list[str]) -> None:
    iperf3 = need("iperf3")

    def talk(server: Server) -> Any:
        words = [iperf3, "-c", HERE, "-p", str(server.port), "-n", "20M", "-J", *what]
        while True:  # it is busy with the connection by which it was found to be up
            done = server.client(*words)
            if end := json.loads(done.stdout)["end"]:
                return sorted(end), len(end["streams"]), end.get("sender_tcp_congestion")

    def command(port: int) -> list[str]:
        return [iperf3, "-s", "-B", HERE, "-p", str(port)]

    same(instance, tmp_path / "log", command, talk)


def question(name: str) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def test_unbound(instance: Instance, tmp_path: Path) -> None:
    """What it knows itself, by datagrams and by streams."""
    unbound = need("unbound")

    def command(port: int) -> list[str]:
        conf = tmp_path / "unbound.conf"
        conf.write_text(
            f"server:\n  interface: {HERE}\n  port: {port}\n  num-threads: 2\n"
            f'  do-daemonize: no\n  username: ""\n  chroot: ""\n  directory: "{tmp_path}"\n'
            '  pidfile: ""\n  use-syslog: no\n'
            '  module-config: "iterator"\n  local-zone: "here." static\n'
            '  local-data: "a.here. A 10.1.2.3"\n'
            "remote-control:\n  control-enable: no\n"
        )
        return [unbound, "-d", "-c", str(conf)]

    def talk(server: Server) -> Any:
        def client(_: int) -> list[bytes]:
            seen = [by_datagram(server.port, question(name)) for name in ("a.here", "b.here")]
            with server.connect() as s, s.makefile("rb") as f:
                ask = question("a.here")
                s.sendall(struct.pack("!H", len(ask)) + ask)
                seen.append(f.read(struct.unpack("!H", f.read(2))[0]))
            return seen

        return at_once(4, client)

    same(instance, tmp_path / "log", command, talk)


@as_root
def test_postgresql(tmp_path: Path, shared_folder: Path) -> None:
    """A process for each connection, of another user; eight clients of pgbench."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("postgresql is not installed")
    programs = found[-1].parent
    as_user = [need("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    shutil.chown(shared_folder, "postgres")

    def command(port: int) -> list[str]:
        data = str(shared_folder / str(port))
        made = [*as_user, programs / "initdb", "-A", "trust", "-N", "-D", data]
        subprocess.run(made, check=True, capture_output=True, cwd=shared_folder)
        words = [*as_user, str(programs / "postgres"), "-D", data, "-k", "", "-F"]
        return [*words, "-h", HERE, "-p", str(port)]

    def talk(server: Server) -> Any:
        where = ["-h", HERE, "-p", str(server.port), "-U", "postgres"]
        while subprocess.run([programs / "pg_isready", "-q", *where]).returncode:
            time.sleep(0.05)
        seen = []
        for what in (["-i", "-q"], ["-c", "8", "-j", "2", "-t", "20", "-n"]):
            done = server.client(str(programs / "pgbench"), *where, *what, "postgres")
            seen.append((done.returncode, "160/160" in done.stdout))
        return seen

    same(None, tmp_path / "log", command, talk, end=signal.SIGINT)  # a fast shutdown
