"""Runtimes of Debian, with small programs (debian.py)."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from common.ports import unused_port
from debian import Server, at_once, same
from programs import children, need, until
from shim import Instance

CLUSTER = """
const cluster = require('cluster'), http = require('http'), net = require('net');
if (cluster.isPrimary) {
  for (let i = 0; i < 3; i++) cluster.fork();
  process.on('SIGTERM', () => {
    for (const w of Object.values(cluster.workers)) w.kill();
    let left = Object.keys(cluster.workers).length;
    cluster.on('exit', () => { if (--left === 0) process.exit(0); });
  });
} else {
  http.createServer((q, a) => a.end(q.url)).listen(+process.argv[2], '127.0.0.1');
}
"""


@pytest.mark.parametrize("policy", ["rr", "none"])
def test_node_cluster(instance: Instance, tmp_path: Path, policy: str) -> None:
    """rr: the primary accepts, and hands connections on; none: the workers accept."""
    node = need("node")
    (tmp_path / "cluster.js").write_text(CLUSTER)

    def command(port: int) -> list[str]:
        words = ["env", f"NODE_CLUSTER_SCHED_POLICY={policy}", node]
        return [*words, str(tmp_path / "cluster.js"), str(port)]

    def talk(server: Server) -> Any:
        until(lambda: len(children(server.pid)) == 3)
        return at_once(8, lambda i: [server.get(f"/{i}.{k}") for k in range(5)])

    same(instance, tmp_path / "log", command, talk)


# A server that echoes, in a thread of its own; the primary's clients beside it.
THREADS = """
const { Worker, isMainThread, workerData } = require('worker_threads'), net = require('net');
if (isMainThread) {
  net.createServer((s) => s.pipe(s)).listen(+process.argv[2], '127.0.0.1');
  new Worker(__filename, { workerData: process.argv });
  process.on('SIGTERM', () => process.exit(0));
} else {
  net.createServer((s) => {
    const to = net.connect(+workerData[2], '127.0.0.1');
    s.pipe(to).pipe(s);
  }).listen(+workerData[3], '127.0.0.1');
}
"""
MUCH = bytes(range(256)) * 20000


def echoes(server: Server) -> list[bool]:
    """5 MB there and back, both ways at once, by four clients."""

    def client(_: int) -> bool:
        with server.connect() as s, ThreadPoolExecutor(1) as pool:
            sent = pool.submit(s.sendall, MUCH)
            back = s.makefile("rb").read(len(MUCH))
            sent.result()
            return back == MUCH

    return at_once(4, client)


def test_node_threads(instance: Instance, tmp_path: Path) -> None:
    """A thread's server passes on, by a client, to the server of the other thread."""
    node = need("node")
    (tmp_path / "threads.js").write_text(THREADS)
    inner = unused_port()

    def command(port: int) -> list[str]:
        return [node, str(tmp_path / "threads.js"), str(inner), str(port)]

    same(instance, tmp_path / "log", command, echoes)


SELECTOR = """
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.*;

public class Echo {
    public static void main(String[] args) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        for (;;) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) serve(selector, key);
            selector.selectedKeys().clear();
        }
    }

    static void serve(Selector selector, SelectionKey key) throws Exception {
        if (key.isAcceptable()) {
            SocketChannel accepted = ((ServerSocketChannel) key.channel()).accept();
            accepted.configureBlocking(false);
            accepted.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(100000));
            return;
        }
        SocketChannel channel = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        if (key.isReadable() && channel.read(buffer) < 0) {
            channel.close();
            return;
        }
        buffer.flip();
        channel.write(buffer);
        buffer.compact();
        key.interestOps((buffer.hasRemaining() ? SelectionKey.OP_READ : 0)
                | (buffer.position() > 0 ? SelectionKey.OP_WRITE : 0));
    }
}
"""


def test_java_selector(instance: Instance, tmp_path: Path) -> None:
    java = need("java")
    compiler = need("javac" if shutil.which("javac") else "ecj")
    (tmp_path / "Echo.java").write_text(SELECTOR)
    subprocess.run([compiler, "-d", tmp_path, tmp_path / "Echo.java"], check=True)

    def command(port: int) -> list[str]:
        return [java, "-Xshare:auto", "-cp", str(tmp_path), "Echo", str(port)]

    same(instance, tmp_path / "log", command, echoes)


ERLANG = """
{ok, L} = gen_tcp:listen(PORT, [binary, {ip, {127,0,0,1}}, {active, false}, {priority, 3}]),
Echo = fun Echo(S) ->
    receive
        {tcp, S, Data} -> ok = gen_tcp:send(S, Data), inet:setopts(S, [{active, once}]), Echo(S);
        {tcp_closed, S} -> ok
    end
end,
Accept = fun Accept() ->
    {ok, S} = gen_tcp:accept(L),
    P = spawn(fun() -> receive go -> inet:setopts(S, [{active, once}]), Echo(S) end end),
    ok = gen_tcp:controlling_process(S, P), P ! go, Accept()
end,
Accept().
"""


def test_erlang(instance: Instance, tmp_path: Path) -> None:
    erl = need("erl")

    def command(port: int) -> list[str]:
        return [erl, "-noinput", "-eval", ERLANG.replace("PORT", str(port))]

    same(instance, tmp_path / "log", command, echoes)
