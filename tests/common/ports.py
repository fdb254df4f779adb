"""Ports."""

import itertools
import os
import pathlib
import socket

_counter = itertools.count(os.getpid())


def unused_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that nobody has, and that nobody gets by chance: the kernel gives none
    of these to a socket that asks for any port, or that connects."""
    ephemeral = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    low, high = map(int, ephemeral.split())
    others = [port for port in range(20_000, 65_536) if not low <= port <= high]
    while True:
        with socket.socket() as sock:
            try:
                sock.bind((host, others[next(_counter) % len(others)]))
            except OSError:
                continue
            return int(sock.getsockname()[1])
