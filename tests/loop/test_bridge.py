"""A socket that loop.sock_connect has connected, in the hands of other code."""

import array
import asyncio
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
import threading

import pytest

import ffloop

from .util import PEER, until


async def connected(listener):
    """(the socket, its peer), non-blocking and blocking."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
    peer, _ = listener.accept()
    peer.settimeout(60)
    return sock, peer


def use_timeout(sock, peer):
    sock.settimeout(60)
    peer.sendall(b"a")
    assert sock.recv(1) == b"a"
    assert sock.gettimeout() == 60
    with pytest.raises(TimeoutError):
        sock.settimeout(0.01)
        sock.recv(1)


def use_blocking(sock, peer):
    sock.setblocking(True)
    sock.sendall(b"b" * 300_000)
    got = 0
    while got < 300_000:
        got += len(peer.recv(65536))


def use_file(sock, peer):
    sock.setblocking(True)
    peer.sendall(b"one\ntwo\n")
    with sock.makefile("rwb") as file:
        assert file.readline() == b"one\n"
        file.write(b"three\n")
        file.flush()
        assert peer.recv(10) == b"three\n"
        assert file.readline() == b"two\n"


def use_select(sock, peer):
    peer.sendall(b"a")
    assert select.select([sock], [sock], [], 60)[0] == [sock]
    assert sock.recv(1) == b"a"
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(sock.fileno(), select.POLLOUT)]


def use_ioctl(sock, peer):
    peer.sendall(b"abc")
    assert select.select([sock], [], [], 60)[0]
    room = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, room)
    assert room[0] == 3


def use_number(sock, peer):
    os.write(sock.fileno(), b"w")
    assert peer.recv(1) == b"w"
    assert os.readlink(f"/proc/self/fd/{sock.fileno()}").startswith("socket:")


def use_detach(sock, peer):
    with socket.socket(fileno=sock.detach()) as other:
        assert (other.family, other.type) == (socket.AF_INET, socket.SOCK_STREAM)
        other.settimeout(60)
        peer.sendall(b"a")
        assert other.recv(1) == b"a"
    assert peer.recv(1) == b""


def use_dup(sock, peer):
    with sock.dup() as other:
        assert other.getpeername() == sock.getpeername()
        sock.close()
        other.settimeout(60)
        other.sendall(b"x")
        assert peer.recv(1) == b"x"


def use_fromfd(sock, peer):
    with socket.fromfd(sock.fileno(), sock.family, sock.type) as other:
        other.settimeout(60)
        peer.sendall(b"a")
        assert other.recv(1) == b"a"


def use_half_close(sock, peer):
    sock.settimeout(60)
    peer.sendall(b"last")
    peer.shutdown(socket.SHUT_WR)
    assert sock.recv(10) == b"last"
    assert sock.recv(10) == b""
    sock.sendall(b"answer")
    sock.shutdown(socket.SHUT_WR)
    assert peer.recv(10) == b"answer"
    assert peer.recv(10) == b""


def use_reset(sock, peer):
    sock.settimeout(60)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def use_reset_after_the_end(sock, peer):
    """A pool's look at an idle connection finds it; and no send is in vain."""
    sock.settimeout(60)
    peer.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    peer.close()
    poll = select.poll()
    poll.register(sock, 0)
    while not poll.poll(60_000)[0][1] & select.POLLHUP:
        pass  # the kernel's error comes a moment before its end
    assert poll.poll(0) == [(sock.fileno(), select.POLLERR | select.POLLHUP)]
    with pytest.raises(BrokenPipeError):
        sock.send(b"x")


def use_options(sock, peer):
    names = sock.getsockname(), sock.getpeername()
    sock.setblocking(True)
    assert (sock.getsockname(), sock.getpeername()) == names
    assert names == (peer.getpeername(), peer.getsockname())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


USES = [use for name, use in sorted(globals().items()) if name.startswith("use_")]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", ["a thread", "the loop"])
def test_uses(run_std, no_leaks, use, where):
    """As the kernel's own, in the loop's thread too, where nobody turns the loop meanwhile."""

    async def main():
        with socket.create_server((PEER, 0)) as listener:
            sock, peer = await connected(listener)
            with sock, peer:
                if where == "a thread":
                    await asyncio.to_thread(use, sock, peer)
                else:
                    use(sock, peer)
            assert sock.fileno() == -1
        await bridges_end()

    run_std(main())


async def bridges_end():
    from ffloop._net import bridge

    await until(lambda: not bridge._bridges)
    await until(lambda: not any(t.name == "ffloop-bridge" for t in threading.enumerate()))


def test_it_goes_on_without_the_loop(run_std):
    async def main():
        listener = socket.create_server((PEER, 0))
        return listener, *await connected(listener)

    async def blocking():
        listener, sock, peer = await main()
        sock.settimeout(60)
        return listener, sock, peer

    listener, sock, peer = run_std(blocking())
    peer.sendall(b"a")
    assert sock.recv(1) == b"a"
    for each in (sock, peer, listener):
        each.close()


def test_what_was_read_ahead_comes_first(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((PEER, 0)) as listener:
            sock, peer = await connected(listener)
            with sock, peer:
                peer.sendall(bytes(range(256)) * 400)
                got = await loop.sock_recv(sock, 1000)
                sock.settimeout(60)

                def rest():
                    data = got
                    while len(data) < 102_400:
                        data += sock.recv(65536)
                    return data

                assert await asyncio.to_thread(rest) == bytes(range(256)) * 400

    run_std(main())


def test_tls_by_wrap_socket(run_std, tls):
    """Blocking in a thread, and non-blocking with add_reader and add_writer on its number."""
    server_ctx, client_ctx = tls

    def echo(listener):
        connection, _ = listener.accept()
        with server_ctx.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.sendall(wrapped.recv(100))

    async def ready(call, *args):
        loop = asyncio.get_running_loop()
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError as exc:
                add, remove, number = loop.add_reader, loop.remove_reader, exc.args and None
            except ssl.SSLWantWriteError as exc:
                add, remove, number = loop.add_writer, loop.remove_writer, exc.args and None
            number = call.__self__.fileno()
            fut = loop.create_future()
            add(number, lambda fut=fut: fut.done() or fut.set_result(None))
            try:
                await fut
            finally:
                remove(number)

    async def main():
        with socket.create_server((PEER, 0)) as listener:
            for blocking in (True, False):
                thread = threading.Thread(target=echo, args=(listener,))
                thread.start()
                sock = socket.socket()
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
                if blocking:
                    sock.settimeout(60)

                    def talk(sock=sock):
                        with client_ctx.wrap_socket(sock, server_hostname="localhost") as wrapped:
                            wrapped.sendall(b"ping")
                            return wrapped.recv(10)

                    assert await asyncio.to_thread(talk) == b"ping"
                else:
                    with client_ctx.wrap_socket(
                        sock, server_hostname="localhost", do_handshake_on_connect=False
                    ) as wrapped:
                        await ready(wrapped.do_handshake)
                        await ready(wrapped.send, b"ping")
                        assert await ready(wrapped.recv, 10) == b"ping"
                await asyncio.to_thread(thread.join)

    run_std(main())


@pytest.mark.ring
def test_a_socket_of_ffloops_own_is_detached(run_ff, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((PEER, 0)) as listener:
            sock = ffloop.socket()
            await loop.sock_connect(sock, listener.getsockname())
            peer, _ = listener.accept()
            with peer:
                number = sock.detach()
                with pytest.raises(OSError, match=r"socket\.socket takes it"):
                    ffloop.socket(fileno=number)
                os.close(number)
                peer.settimeout(60)
                assert peer.recv(1) == b""
        await bridges_end()

    run_ff(main())


@pytest.mark.ring
def test_what_cannot_leave_says_so(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((PEER, 0)) as listener:
            sock, peer = await connected(listener)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            for call in (lambda: sock.settimeout(1), sock.makefile, lambda: sock.setblocking(True)):
                with pytest.raises(ValueError, match=r"routes|streams"):
                    call()
            assert sock.fileno() >= 0  # a mirror, for who polls
            transport.abort()
            await asyncio.sleep(0)
            peer.close()

    run_ff(main())


def test_sendfile_sends_from_its_offset(run_std, tmp_path):
    """Wherever the file stands: somebody may have read it."""
    path = tmp_path / "file"
    data = bytes(range(100))
    path.write_bytes(data)

    async def send(loop, listener, kind, file, offset, count):
        if kind == "transport":
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            peer, _ = listener.accept()
            sent = await loop.sendfile(transport, file, offset, count)
            transport.close()
        else:
            sock, peer = await connected(listener)
            sent = await loop.sock_sendfile(sock, file, offset, count)
            sock.close()
        with peer:
            got = b""
            while part := await asyncio.to_thread(peer.recv, 1000):
                got += part
        return sent, got

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((PEER, 0)) as listener:
            for kind in ("transport", "socket"):
                for read in (0, 40):
                    for offset, count in ((0, None), (0, 10), (10, None), (95, 50), (200, 5)):
                        with open(path, "rb", buffering=0) as file:
                            file.read(read)
                            want = data[offset:][:count]
                            sent, got = await send(loop, listener, kind, file, offset, count)
                            assert (sent, got) == (len(want), want)
                            if want:
                                assert file.tell() == offset + len(want)

    run_std(main())
