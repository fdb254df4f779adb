"""An echo server without an event loop: `python examples/selector_echo.py`, `nc localhost 8083`."""

import contextlib
import selectors
import sys

import ffloop


def main(port: int) -> None:
    with ffloop.FFSelector() as selector, ffloop.socket() as listener:
        listener.bind(("", port))
        listener.listen()
        print("listening on", listener.getsockname(), flush=True)
        selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    sock, _ = listener.accept()
                    selector.register(sock, selectors.EVENT_READ, bytearray())
                else:
                    echo(selector, key)


def echo(selector: ffloop.FFSelector, key: selectors.SelectorKey) -> None:
    """Reads when nothing waits to be sent, and sends as much as the socket takes."""
    sock, waiting = key.fileobj, key.data
    try:
        if not waiting:
            waiting += sock.recv(65536)
        if not waiting:
            raise ConnectionResetError
        del waiting[: sock.send(waiting)]
    except BlockingIOError:
        pass
    except ConnectionError:
        selector.unregister(sock)
        sock.close()
        return
    selector.modify(sock, selectors.EVENT_WRITE if waiting else selectors.EVENT_READ, waiting)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8083)
