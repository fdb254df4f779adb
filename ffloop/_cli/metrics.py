"""The instances' figures for Prometheus: as text, and served over HTTP."""

import http.server
import signal
import socket
import threading
from collections import Counter
from itertools import accumulate
from math import isinf
from typing import Any

from .._session.address import text as text_of
from .._session.stats_page import Instance, Lag, Session
from ..errors import InstanceError, sentence
from . import collect

_LAG = "How long the iterations of an application's loop worked."
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def text(instances: list[Instance], openmetrics: bool = False) -> str:
    """Prometheus's text format 0.0.4, or OpenMetrics 1.0. A counter's name ends in _total (its
    OpenMetrics family's does not), a name of bytes says so, and a family's samples are together."""
    families: dict[str, tuple[str, str, list[str]]] = {}

    def add(
        name: str, kind: str, what: str, value: float, family: str | None = None, **labels: Any
    ) -> None:
        lines = families.setdefault(family or name, (kind, what, []))[2]
        text = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
        lines.append(f"{name}{{{text}}} {value}")

    for one in instances:
        where: dict[str, Any] = {"pid": one.pid, "instance_path": one.path}
        more = {"stack": one.stack, "state": one.state, "user": one.user}
        add("ffloop_instance_info", "gauge", "A running instance.", 1, **where, **more)
        add("ffloop_instance_sessions_open", "gauge", "Sessions.", len(one.sessions), **where)
        what = "When it started, seconds since the epoch."
        add("ffloop_instance_start_time_seconds", "gauge", what, one.started, **where)
        for name, value in one.totals.items():
            if name == "pending":
                add("ffloop_instance_pending", "gauge", "Handshakes.", value, **where)
                continue
            name = name.removesuffix("_total")
            add(f"ffloop_instance_{name}_total", "counter", f"Instance: {name}.", value, **where)
        _lag_metrics(add, one.lag, where)
        states = Counter((s.type, s.state) for s in one.sockets)
        for (kind, state), count in sorted(states.items()):
            labels = {**where, "type": kind, "state": state}
            add("ffloop_sockets", "gauge", "Stack sockets.", count, **labels)
        queued = one.queued()
        for session in one.sessions:
            labels = {**where, "session": session.id, "app": session.pid}
            _session_metrics(add, session, labels)
            what = "Bytes sent that the stack has not taken."
            add("ffloop_session_queued_bytes", "gauge", what, queued[session.id], **labels)
    out = []
    for name, (kind, what, lines) in families.items():
        family = name.removesuffix("_total") if openmetrics else name
        out += [f"# HELP {family} {what}", f"# TYPE {family} {kind}", *lines]
    return "\n".join([*out, *(["# EOF"] if openmetrics else [])]) + "\n"


def _lag_metrics(add: Any, lag: Lag | None, labels: dict[str, Any]) -> None:
    if lag is None:
        return
    family = "ffloop_iteration_seconds"
    so_far = accumulate(lag.iterations.values())
    for bound, count in zip(lag.iterations, so_far, strict=True):
        le = "+Inf" if isinf(bound) else bound
        add(f"{family}_bucket", "histogram", _LAG, count, family, **labels, le=le)
    add(f"{family}_sum", "histogram", _LAG, lag.seconds, family, **labels)
    add(f"{family}_count", "histogram", _LAG, sum(lag.iterations.values()), family, **labels)


def _session_metrics(add: Any, session: Session, labels: dict[str, Any]) -> None:
    info = {**labels, "user": session.user, "program": session.program[:100]}
    add("ffloop_session_info", "gauge", "A session.", 1, **info)
    add("ffloop_session_sockets", "gauge", "Its sockets.", session.sockets, **labels)
    what = "Receive buffers not in use."
    add("ffloop_session_receive_free_bytes", "gauge", what, session.rx_free, **labels)
    _lag_metrics(add, session.lag, labels)
    for ring, now in session.rings.items():
        add("ffloop_ring_depth", "gauge", "Entries that wait.", now["depth"], **labels, ring=ring)
    for side, counters in (("app", session.app), ("instance", session.inst)):
        for name, value in counters.items():
            name = f"ffloop_session_{side}_{name}_total"
            add(name, "counter", f"A session's counter, the {side}'s.", value, **labels)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Handler(http.server.BaseHTTPRequestHandler):
    target: str | None = None  # set by a subclass: one instance; None: all

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        openmetrics = "application/openmetrics-text" in self.headers.get("Accept", "")
        try:
            body = text(collect.collect(self.target)[0], openmetrics).encode()
        except InstanceError as exc:
            self.send_error(503, explain=sentence(exc))
            return
        self.send_response(200)
        self.send_header("Content-Type", _OPENMETRICS if openmetrics else _PLAIN)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # "::" serves IPv4 as well
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(address: str, port: int, target: str | None) -> int:
    """Serves /metrics at address and port (0: any) until SIGINT or SIGTERM. Raises OSError."""
    (family, _, _, _, where), *_ = _resolved(address, port)
    server_class = type("_Server", (_Server,), {"address_family": family})
    handler = type("_Handler", (_Handler,), {"target": target})
    try:
        server = server_class(where[:2], handler)
    except OSError as exc:
        raise OSError(
            exc.errno, f"cannot serve at {text_of(address, port)}: {exc.strerror}"
        ) from None
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # for sigwait: background jobs ignore SIGINT
    with server:
        threading.Thread(target=server.serve_forever).start()
        print(f"metrics at http://{text_of(address, server.server_port)}/metrics", flush=True)
        signal.sigwait(ends)
        server.shutdown()
    return 0


def _resolved(address: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise OSError(0, f"cannot serve at {text_of(address, port)}: {why}") from None
