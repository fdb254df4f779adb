"""Stack sockets for programs without a loop."""

import selectors

import ffloop

from .util import HOST


def listener(backlog=100):
    sock = ffloop.socket()
    sock.bind((HOST, 0))
    sock.listen(backlog)
    return sock


def socketpair():
    """Two connected stack sockets, of this thread's session."""
    with listener() as server, ffloop.FFSelector() as selector:
        one = ffloop.socket()
        one.connect_ex(server.getsockname())
        selector.register(one, selectors.EVENT_WRITE)
        selector.register(server, selectors.EVENT_READ)
        left = 2
        while left:
            for key, _ in selector.select():
                selector.unregister(key.fileobj)
                left -= 1
        other, address = server.accept()
        assert address == one.getsockname()
    return other, one
