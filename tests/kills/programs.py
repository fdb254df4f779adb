"""The programs that test_kills.py starts and kills. Each says what it is on its standard output, a
line a fact, and ends with its standard input."""

import asyncio
import ctypes
import os
import select
import signal
import socket
import sys


def end_with_parent() -> None:
    """A test that fails kills what it has started, and that has children."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def serve() -> None:
    """An echo server on ffloop; says its pid and its port."""
    import ffloop

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, sys.argv[2], 0, backlog=512)
        say(os.getpid(), server.sockets[0].getsockname()[1])
        ended = asyncio.Event()
        loop.add_reader(0, ended.set)
        await ended.wait()

    ffloop.run(main())


def breed() -> None:
    """Forks a server for each line that it reads: one that has imported everything starts fast."""
    import ffloop

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    say(ffloop.__version__)
    while os.read(0, 1):
        if os.fork() == 0:
            end_with_parent()
            never, _ = os.pipe()
            os.dup2(never, 0)
            serve()
            os._exit(0)


def prefork() -> None:
    """For the shim: plain sockets, and two workers that accept from one listener. Says its own pid
    and the port, then the pid of every worker."""
    with socket.create_server((sys.argv[2], 0), backlog=512) as listener:
        say(os.getpid(), listener.getsockname()[1])
        workers: set[int] = set()
        child, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            while len(workers) < 2:
                pid = os.fork()
                if pid == 0:
                    end_with_parent()
                    signal.set_wakeup_fd(-1)
                    work(listener)
                workers.add(pid)
                say(pid)
            if 0 in select.select([0, child], [], [])[0]:
                break
            os.read(child, 100)
            workers -= {pid for pid in list(workers) if os.waitpid(pid, os.WNOHANG)[0] == pid}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def work(listener: socket.socket) -> None:
    """Echoes for ever, on every connection that it gets."""
    poll = select.epoll()
    listener.setblocking(False)
    poll.register(listener, select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            try:
                if fd == listener.fileno():
                    peer = listener.accept()[0]
                    poll.register(peer, select.EPOLLIN)
                    peers[peer.fileno()] = peer
                elif data := peers[fd].recv(4096):
                    peers[fd].sendall(data)
                else:
                    peers.pop(fd).close()
            except BlockingIOError:
                pass
            except OSError:
                if fd == listener.fileno():
                    raise
                peers.pop(fd).close()


if __name__ == "__main__":
    {"serve": serve, "breed": breed, "prefork": prefork}[sys.argv[1]]()
