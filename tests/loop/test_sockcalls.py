"""loop.sock_* on ffloop.socket(), and on kernel sockets in the same loop."""

import asyncio
import errno
import io
import os
import pickle
import select
import signal
import socket

import pytest

import ffloop

from .util import HOST, PEER, Log, pair, serve, until


def make(run, kind=socket.SOCK_STREAM):
    """A non-blocking socket for the loop under test."""
    if run.name == "ffloop":
        return ffloop.socket(socket.AF_INET, kind)
    sock = socket.socket(socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


def test_accept_connect_echo(run, no_leaks):
    async def main():
        loop = asyncio.get_running_loop()
        with make(run) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, 0))
            listener.listen()
            client = make(run)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            peer, addr = await accepting
            assert addr == client.getsockname() == peer.getpeername()
            payload = os.urandom(3_000_000)
            sending = asyncio.create_task(loop.sock_sendall(client, payload))
            got = bytearray()
            while len(got) < len(payload):
                got += await loop.sock_recv(peer, 65536)
            await sending
            assert got == payload
            buf = bytearray(10)
            receiving = asyncio.create_task(loop.sock_recv_into(client, buf))
            await loop.sock_sendall(peer, b"abc")
            assert await receiving == 3
            assert buf[:3] == b"abc"
            peer.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(client, 10) == b""
            peer.close()
            client.close()

    run(main())


def test_cancelled_recv_takes_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []
        async with serve(lambda: made.append(Log()) or made[-1]) as (_, addr):
            with make(run) as sock:
                await loop.sock_connect(sock, addr)
                task = asyncio.create_task(loop.sock_recv(sock, 100))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: made)
                await made[0].made
                made[0].transport.write(b"kept")
                assert await loop.sock_recv(sock, 100) == b"kept"

    run(main())


def test_refused(run):
    async def main():
        with make(run) as holder:
            holder.bind((HOST, 0))
            with make(run) as sock:
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.get_running_loop().sock_connect(sock, holder.getsockname())

    run(main())


def test_sendfile(run_std, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(500_000))

    async def main():
        loop = asyncio.get_running_loop()
        made = []
        async with serve(lambda: made.append(Log()) or made[-1]) as (_, addr):
            with make(run_std) as sock, path.open("rb") as file:
                await loop.sock_connect(sock, addr)
                assert await loop.sock_sendfile(sock, file, fallback=False) == 500_000
                assert file.tell() == 500_000
                memory = io.BytesIO(b"no file")
                with pytest.raises(asyncio.SendfileNotAvailableError, match="regular file"):
                    await loop.sock_sendfile(sock, memory, fallback=False)
            await until(lambda: made)
            assert await made[0].got(500_000) == path.read_bytes()
            transport, protocol = await loop.create_connection(Log, *addr)
            with path.open("rb") as file:
                assert await loop.sendfile(transport, file, 100, 1000, fallback=False) == 1000
                assert file.tell() == 1100
            with pytest.raises(asyncio.SendfileNotAvailableError, match="regular file"):
                await loop.sendfile(transport, memory, fallback=False)
            await until(lambda: len(made) == 2)
            assert await made[1].got(1000) == path.read_bytes()[100:1100]
            transport.abort()
            await protocol.lost

    run_std(main())


def test_one_file_is_sent_to_several(run_std, tmp_path):
    """Each call has an offset of its own: an open file that is served to all."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2_000_000))

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as one, pair() as other:
            with path.open("rb") as file:
                calls = (loop.sendfile(client.transport, file) for client, _ in (one, other))
                assert await asyncio.gather(*calls) == [2_000_000] * 2
            for _, server in (one, other):
                same = await server.got(2_000_000) == path.read_bytes()
                assert same  # without a diff

    run_std(main())


@pytest.mark.ring
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("by_transport", [False, True])
def test_a_sendfile_that_is_cancelled(run_ff, tmp_path, by_transport, closed):
    """The file's position says what was sent. The file may have been closed meanwhile."""

    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.create_server((PEER, 0)) as listener,
            (tmp_path / "file").open("wb+") as file,
            (tmp_path / "file").open("rb") as own,
        ):
            file.truncate(64 << 20)  # more than the buffers
            transport, _ = await loop.create_connection(Log, *listener.getsockname())
            one, _ = await asyncio.to_thread(listener.accept)
            sock = ffloop.socket()
            await loop.sock_connect(sock, listener.getsockname())
            other, _ = await asyncio.to_thread(listener.accept)
            call = loop.sendfile(transport, own) if by_transport else loop.sock_sendfile(sock, own)
            sending = asyncio.create_task(call)
            peer = one if by_transport else other
            await asyncio.to_thread(peer.recv, 1, socket.MSG_PEEK)
            number = os.dup(own.fileno())
            if closed:
                own.close()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            position = os.lseek(number, 0, os.SEEK_CUR)
            os.close(number)
            transport.close()
            sock.close()
            with one, other:
                assert 0 < position == await asyncio.to_thread(size_of, peer)

    def size_of(peer):
        size = 0
        while data := peer.recv(1 << 20):
            size += len(data)
        return size

    run_ff(main())


def test_sendfile_of_what_cannot_be_read(run_std, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, _):
            with (tmp_path / "file").open("wb", buffering=0) as file:
                file.write(b"bytes")
                with pytest.raises(io.UnsupportedOperation, match="read"):
                    await loop.sendfile(client.transport, file)

    run_std(main())


@pytest.mark.parametrize(
    ("what", "expected"),
    [((-1,), ValueError), ((0, 0), ValueError), ((0, "1"), TypeError), (("0",), TypeError)],
)
def test_sendfile_of_what_cannot_be(run_std, tmp_path, what, expected):
    """Before a byte is sent."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")

    async def main():
        loop = asyncio.get_running_loop()
        async with pair() as (client, server):
            with path.open("rb") as file, pytest.raises(expected):
                await loop.sendfile(client.transport, file, *what)
            with path.open() as text, pytest.raises(ValueError, match="binary"):
                await loop.sendfile(client.transport, text)
            client.transport.close()
            await server.lost
            assert server.data == b""

    run_std(main())


def test_create_connection_and_server_with_sock(run):
    async def main():
        loop = asyncio.get_running_loop()
        listener = make(run)
        listener.bind((HOST, 0))
        made = []
        server = await loop.create_server(lambda: made.append(Log()) or made[-1], sock=listener)
        sock = make(run)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        transport, client = await loop.create_connection(Log, sock=sock)
        transport.write(b"hello")
        await until(lambda: made)
        assert await made[0].got(5) == b"hello"
        transport.close()
        await client.lost
        assert sock.fileno() == -1
        server.close()

    run(main())


def test_connect_accepted_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        with make(run) as listener:
            listener.bind((HOST, 0))
            listener.listen()
            accepting = asyncio.create_task(loop.sock_accept(listener))
            transport, client = await loop.create_connection(Log, *listener.getsockname())
            peer, _ = await accepting
            peer_transport, server = await loop.connect_accepted_socket(Log, peer)
            transport.write(b"x")
            assert await server.got(1) == b"x"
            peer_transport.abort()
            await client.lost

    run(main())


def test_socket_in_a_transport_is_not_for_sock_calls(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            sock = make(run_std)
            await loop.sock_connect(sock, addr)
            transport, client = await loop.create_connection(Log, sock=sock)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.sock_recv(sock, 1)
            transport.abort()
            await client.lost

    run_std(main())


@pytest.mark.ring
def test_shape(run_ff):
    """What a socket.socket does, this does, or says why not."""

    async def main():
        import ffloop

        sock = ffloop.socket(socket.AF_INET6)
        assert isinstance(sock, socket.socket)
        assert isinstance(sock, ffloop.socket)
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET6, socket.SOCK_STREAM, 6)
        assert sock.getsockname() == ("::", 0, 0, 0)
        assert sock.gettimeout() == 0.0
        assert sock.getblocking() is False
        sock.setblocking(False)
        sock.settimeout(0)
        with pytest.raises(ValueError, match="non-blocking"):
            sock.setblocking(True)
        with pytest.raises(ValueError, match="non-blocking"):
            sock.settimeout(1)
        with pytest.raises(OSError) as caught:
            sock.getpeername()
        assert caught.value.errno == errno.ENOTCONN
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert len(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == 8
        for size in (-1, 1025):
            with pytest.raises(OSError, match="buflen out of range"):
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, size)
        with pytest.raises(TypeError):
            pickle.dumps(sock)
        with pytest.raises(OverflowError):
            sock.bind(("::1", 70000))
        with pytest.raises(TypeError):
            sock.bind("::1")
        again = ffloop.socket(fileno=sock.detach())
        assert sock.fileno() == -1
        assert again.family == socket.AF_INET6
        again.close()
        again.close()
        assert again.detach() == -1
        with pytest.raises(OSError) as caught:
            again.getsockname()
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError):
            ffloop.socket(socket.AF_UNIX)

    run_ff(main())


async def connected(run):
    """A connected socket for the loop under test, and its peer's protocol."""
    loop = asyncio.get_running_loop()
    made = []
    server = await loop.create_server(lambda: made.append(Log()) or made[-1], HOST, 0)
    sock = make(run)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    await until(lambda: made)
    await made[0].made
    server.close()
    return sock, made[0]


def test_readers_and_writers(run_std, no_leaks):
    """The loop's oldest face: a program that does its own send and recv."""

    async def main():
        loop = asyncio.get_running_loop()
        sock, peer = await connected(run_std)
        payload = os.urandom(30_000_000)
        left, answer, calls = memoryview(payload), bytearray(), []
        sent, done = loop.create_future(), loop.create_future()

        def writable(mark):
            nonlocal left
            calls.append(mark)
            try:
                left = left[sock.send(left[:1_000_000]) :]
            except BlockingIOError:  # it may be called in vain
                pass
            if not left:
                assert loop.remove_writer(sock)
                sent.set_result(None)

        def readable():
            answer.extend(sock.recv(100_000))
            if len(answer) == 100:
                done.set_result(loop.remove_reader(sock.fileno()))

        peer.transport.pause_reading()
        loop.add_writer(sock, writable, "mark")
        loop.add_reader(sock, readable)
        quiet = 0
        while quiet < 200:  # iterations of the loop without a call: the buffers are full
            before = len(calls)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(calls) == before else 0
        assert left
        assert set(calls) == {"mark"}
        peer.transport.resume_reading()
        await sent
        assert not loop.remove_writer(sock)
        assert await peer.got(len(payload)) == payload
        peer.transport.write(bytes(100))
        assert await done
        iterations = []
        loop.add_writer(sock, iterations.append, "first")
        loop.add_writer(sock, iterations.append, "second")  # in the first one's place
        await until(lambda: len(iterations) >= 3)
        assert set(iterations) == {"second"}
        assert loop.remove_writer(sock)
        sock.close()
        peer.transport.abort()
        await peer.lost

    run_std(main())


def test_writer_of_a_connect(run):
    async def main():
        loop = asyncio.get_running_loop()
        with make(run) as listener, make(run) as sock, make(run) as refused:
            listener.bind((HOST, 0))
            refused.connect_ex(listener.getsockname())
            told = loop.create_future()
            loop.add_writer(refused, told.set_result, None)
            await told
            loop.remove_writer(refused)
            error = refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert error == errno.ECONNREFUSED
            listener.listen()
            sock.connect_ex(listener.getsockname())
            told = loop.create_future()
            loop.add_writer(sock, lambda: told.done() or told.set_result(None))
            await told
            loop.remove_writer(sock)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert sock.getpeername() == listener.getsockname()

    run(main())


def test_a_transports_socket_has_no_readers(run_std):
    async def main():
        loop = asyncio.get_running_loop()
        async with serve() as (_, addr):
            transport, client = await loop.create_connection(Log, *addr)
            sock = transport.get_extra_info("socket")
            for add in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    add(sock.fileno(), print)
            transport.abort()
            await client.lost

    run_std(main())


def test_kernel_sockets_beside(run_ff):
    async def main():
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recv(left, 10))
            await loop.sock_sendall(right, b"kernel")
            assert await receiving == b"kernel"

    run_ff(main())


def test_recvmsg(run, no_leaks):
    async def main():
        sock, peer = await connected(run)
        loop = asyncio.get_running_loop()
        with sock:
            assert (sock.recv(0), sock.recv_into(bytearray())) == (b"", 0)  # at once
            peer.transport.write(b"0123456789")
            readable = loop.create_future()
            loop.add_reader(sock, lambda: readable.done() or readable.set_result(None))
            await readable
            loop.remove_reader(sock)
            for sizes in ((-1, 0), (4, -1)):
                with pytest.raises(ValueError, match=r"negative|invalid"):
                    sock.recvmsg(*sizes)
            assert sock.recvmsg(4) == (b"0123", [], 0, None)
            first, second = bytearray(3), bytearray(10)
            assert sock.recvmsg_into([first, second]) == (6, [], 0, None)
            assert (first, second[:3]) == (b"456", b"789")
            with pytest.raises(BlockingIOError):
                sock.recvmsg(1)
            with pytest.raises(TypeError):
                sock.recvmsg_into([b"not writable"])
            with pytest.raises(ValueError, match="non-blocking"), open(__file__, "rb") as file:
                sock.sendfile(file)
        await peer.lost

    run(main())


def test_recvmsg_of_a_datagram_that_is_cut(run):
    async def main():
        loop = asyncio.get_running_loop()
        with make(run, socket.SOCK_DGRAM) as left, make(run, socket.SOCK_DGRAM) as right:
            left.bind((HOST, 0))
            right.bind((HOST, 0))
            right.sendto(b"0123456789", left.getsockname())
            readable = loop.create_future()
            loop.add_reader(left, lambda: readable.done() or readable.set_result(None))
            await readable
            loop.remove_reader(left)
            assert left.recvmsg(4) == (b"0123", [], socket.MSG_TRUNC, right.getsockname())

    run(main())


def test_sendall_of_a_datagram(run_std):
    """One datagram, an empty one too."""

    async def main():
        loop = asyncio.get_running_loop()
        with make(run_std, socket.SOCK_DGRAM) as left, make(run_std, socket.SOCK_DGRAM) as right:
            left.bind((HOST, 0))
            right.bind((HOST, 0))
            await loop.sock_connect(right, left.getsockname())
            for data in (b"whole", b"", b"x" * 1400):
                right.sendall(data)
                assert await loop.sock_recvfrom(left, 65536) == (data, right.getsockname())

    run_std(main())


def test_flags(run, no_leaks):
    """MSG_DONTWAIT and its like say what holds anyway; MSG_PEEK leaves the bytes."""
    harmless = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

    async def main():
        loop = asyncio.get_running_loop()
        sock, peer = await connected(run)
        with sock:
            with pytest.raises(BlockingIOError):
                sock.recv(1, socket.MSG_DONTWAIT)
            sock.sendall(b"a", harmless)
            assert sock.send(b"b", socket.MSG_MORE) == 1
            assert sock.send(b"c", harmless) == 1
            assert sock.sendmsg([b"d", b"e"], (), harmless) == 2
            assert await peer.got(5) == b"abcde"
            peer.transport.write(b"answer")
            readable = loop.create_future()
            loop.add_reader(sock, lambda: readable.done() or readable.set_result(None))
            await readable
            loop.remove_reader(sock)
            assert sock.recv(3, socket.MSG_PEEK | harmless) == b"ans"
            assert sock.recvmsg(3, 0, harmless)[0] == b"ans"
            assert sock.recv(9, socket.MSG_WAITALL) == b"wer"
        await peer.lost
        with make(run, socket.SOCK_DGRAM) as left, make(run, socket.SOCK_DGRAM) as right:
            left.bind((HOST, 0))
            right.bind((HOST, 0))
            right.sendto(b"here", harmless, left.getsockname())
            assert await loop.sock_recv(left, 100) == b"here"

    run(main())


@pytest.mark.ring
def test_flags_that_are_not_there(run_ff):
    """They would change what a call does: an error, not another call in silence."""

    async def main():
        sock, peer = await connected(run_ff)
        with sock, make(run_ff, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind((HOST, 0))
            for call in (
                lambda: sock.send(b"x", socket.MSG_OOB),
                lambda: sock.sendall(b"x", socket.MSG_OOB | socket.MSG_DONTWAIT),
                lambda: sock.sendmsg([b"x"], (), socket.MSG_OOB),
                lambda: sock.recv(1, socket.MSG_OOB),
                lambda: sock.recv_into(bytearray(1), 1, socket.MSG_TRUNC),
                lambda: datagrams.sendto(b"x", socket.MSG_MORE, datagrams.getsockname()),
            ):
                with pytest.raises(OSError, match=r"MSG_.* on a stack socket") as caught:
                    call()
                assert caught.value.errno == errno.EOPNOTSUPP
        await peer.lost
        assert not peer.data

    run_ff(main())


@pytest.mark.ring
def test_what_a_stack_socket_cannot(run_ff):
    async def main():
        import ffloop

        with make(run_ff) as sock, socket.socket() as kernel:
            with pytest.raises(ValueError, match="non-blocking"):
                sock.makefile("rb")
            with pytest.raises(OSError, match="detach") as caught:
                ffloop.socket(fileno=kernel.fileno())
            assert caught.value.errno == errno.EBADF

    run_ff(main())


def test_streams_with_sock(run, tls, no_leaks):
    """start_server, open_connection and connect_accepted_socket with sockets of one's own, TLS."""
    server_ctx, client_ctx = tls

    async def main():
        loop = asyncio.get_running_loop()

        async def shout(reader, writer):
            writer.write((await reader.readline()).upper())
            assert (await reader.read()) == b""  # the client's half is closed, ours is not
            writer.write(b"bye")
            writer.close()
            await writer.wait_closed()

        listener = make(run)
        listener.bind((HOST, 0))
        server = await asyncio.start_server(shout, sock=listener)
        assert server.is_serving()
        sock = make(run)
        await loop.sock_connect(sock, listener.getsockname())
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"hello\n")
        writer.write_eof()
        assert await reader.read() == b"HELLO\nbye"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

        with make(run) as listener:
            listener.bind((HOST, 0))
            listener.listen()
            accepting = asyncio.create_task(loop.sock_accept(listener))
            connecting = asyncio.create_task(
                loop.create_connection(
                    Log, *listener.getsockname(), ssl=client_ctx, server_hostname="localhost"
                )
            )
            peer, _ = await accepting
            accepted = Log()  # uvloop answers with a protocol of its own
            await loop.connect_accepted_socket(lambda: accepted, peer, ssl=server_ctx)
            transport, client = await connecting
            transport.write(b"secret")
            assert await accepted.got(6) == b"secret"
            transport.close()
            await client.lost
            await accepted.lost

    run(main())


def test_a_descriptor_is_quiet_again_when_its_bytes_were_delivered(run_std):
    """httpx asks the descriptor of a kept connection whether it is still good."""

    async def main():
        async with pair() as (client, server):
            fd = server.transport.get_extra_info("socket").fileno()
            with select.epoll() as poll:
                poll.register(fd, select.EPOLLIN)
                server.transport.pause_reading()
                client.transport.write(b"bytes")
                await until(lambda: poll.poll(0))
                server.transport.resume_reading()
                assert await server.got(5) == b"bytes"
                assert poll.poll(0) == []

    run_std(main())


def test_a_listeners_descriptor_is_quiet_again(run_std):
    async def main():
        made = []
        async with serve(lambda: made.append(Log()) or made[-1]) as (server, address):
            with select.epoll() as poll:
                poll.register(server.sockets[0].fileno(), select.EPOLLIN)
                transport, _ = await asyncio.get_running_loop().create_connection(Log, *address)
                await until(lambda: made)
                assert poll.poll(0) == []
                transport.close()
                await made[0].lost

    run_std(main())


def test_a_stopped_instance_does_not_hold_up_a_first_recv(monkeypatch):
    """What a socket's own recv waits for, sock_recv leaves to the loop."""
    monkeypatch.setenv("FFLOOP_INSTANCE", "spawn")

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as listener, ffloop.socket() as sock:
            await loop.sock_connect(sock, listener.getsockname())
            peer, _ = listener.accept()
            pid = loop.instance.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                receiving = loop.create_task(loop.sock_recv(sock, 5))
                await asyncio.sleep(0)  # it has begun, and did not wait
            finally:
                os.kill(pid, signal.SIGCONT)
            with peer:
                peer.sendall(b"bytes")
                assert await receiving == b"bytes"

    ffloop.run(main(), timeout_ms=60_000)


def test_who_waits_on_a_closed_socket_can_be_cancelled(run_ff):
    """A reader and a writer: what is left of the one is not the other's error (asyncio logs it)."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            waiting = [
                asyncio.create_task(loop.sock_recv(ours, 9)),
                asyncio.create_task(loop.sock_sendall(ours, b"x" * 10_000_000)),
            ]
            await asyncio.sleep(0)
            ours.close()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert [task.cancelled() for task in waiting] == [True, True]

    run_ff(main())


@pytest.mark.parametrize("number", [10**9, 2**31 - 1])
def test_a_descriptor_that_is_not_there(run_std, number):
    async def main():
        loop = asyncio.get_running_loop()
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(OSError) as caught:
                add(number, print)
            assert caught.value.errno == errno.EBADF

    run_std(main())
