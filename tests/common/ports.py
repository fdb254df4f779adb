"""Ports."""

import socket


def unused_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
