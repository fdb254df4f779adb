"""`ffloop run MODULE:APP`: an ASGI app on uvicorn, or an aiohttp app."""

import argparse
import asyncio
import contextlib
import errno
import importlib
import inspect
import json
import logging.config
import os
import signal
import socket
import ssl
import stat
import sys
from pathlib import Path
from typing import Any

from .._loop.loop import Loop, new_event_loop
from .arguments import Refused
from .program import is_part, log_to_stderr, search_here

_LOOPBACK, _BACKLOG = "127.0.0.1", 2048
# Of an address that cannot be served at, what to do.
_CANNOT_LISTEN = {
    errno.EADDRINUSE: "; choose another --port",
    errno.EADDRNOTAVAIL: "; --host takes an address of this machine's",
    errno.EACCES: "; a port below 1024 takes CAP_NET_BIND_SERVICE, or an instance's --ports",
    errno.EPERM: "",
}


def prepare(args: argparse.Namespace, shared: bool) -> None:
    """Sets args.socks: the listening sockets that all workers inherit, or None where each process
    makes its own. Made for --uds and --fd, and with `shared` for --host and --port too, since the
    kernel drops the accept queue of a listener that is closed. Raises Refused."""
    args.socks = None
    host = _LOOPBACK if args.host is None else args.host
    what, to_do = f"{host}:{args.port}", _CANNOT_LISTEN
    try:
        if args.uds is not None:
            what, to_do = f"--uds {args.uds}", {}
            args.socks = [_unix(args.uds)]
        elif args.fd is not None:
            what, to_do = f"--fd {args.fd}", {}
            args.socks = [socket.socket(fileno=args.fd)]
            if args.socks[0].type != socket.SOCK_STREAM:
                raise OSError(0, "not a stream socket")
        elif shared:
            args.socks = _bound(host, args.port)
        else:
            _addresses(host, args.port)  # a name without one is told before the app is loaded
    except (OSError, UnicodeError) as exc:
        number = getattr(exc, "errno", None) or 0
        raise Refused(f"{what}: {_why(exc)}{to_do.get(number, '')}") from None


def _why(exc: OSError | UnicodeError) -> str:
    """Without what socket.create_server adds."""
    number = getattr(exc, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(exc, "strerror", None) or str(exc)


def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    flags = socket.AI_PASSIVE  # an empty host: every address
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def _bound(host: str, port: int) -> list[socket.socket]:
    return [
        socket.create_server(address, family=family, backlog=_BACKLOG)
        for family, address in _addresses(host, port)
    ]


def _unix(path: str) -> socket.socket:
    """Replaces a socket left at the path. Mode 0666, as uvicorn's and aiohttp's: the directory
    decides who may connect."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(0, "what is there is no socket")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o666)
    return sock


def app(args: argparse.Namespace) -> int:
    """Serves args.target at args.socks, or else at args.host and args.port. Returns an exit
    status. Raises Refused."""
    log_to_stderr()
    if args.log_config is not None:
        _configure_logging(Path(args.log_config))
    tls = _tls(args)
    sys.argv = [args.target]
    search_here()
    app = load(args.target)
    if _is_factory(app):
        app = app()
    loop = new_event_loop()
    if args.host is None and args.socks is None:
        args.host = _LOOPBACK if loop.instance.stack == "host" else "0.0.0.0"
    if _is_aiohttp(app) or inspect.isawaitable(app):
        return _serve_aiohttp(app, loop, args, tls)
    if callable(app):
        return _serve_asgi(app, loop, args)
    loop.close()
    raise Refused(f"{args.target} is {type(app).__name__}: neither an ASGI nor an aiohttp app")


def _configure_logging(path: Path) -> None:
    try:
        text = path.read_text()
        if path.suffix == ".json":
            logging.config.dictConfig(json.loads(text))
        elif path.suffix in (".yaml", ".yml"):
            logging.config.dictConfig(importlib.import_module("yaml").safe_load(text))
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except OSError as exc:
        raise Refused(f"--log-config {path}: {exc.strerror or exc}") from None
    except Exception as exc:  # the file may name any class
        words = " ".join(str(exc).split())
        raise Refused(f"--log-config {path}: {type(exc).__name__}: {words}") from None


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    """The server's context; None without --ssl-certfile. Raises Refused before the app is loaded,
    also for ASGI, where uvicorn makes a context of its own."""
    if args.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
    except OSError as exc:  # SSLError too
        files = " and ".join(filter(None, (args.ssl_certfile, args.ssl_keyfile)))
        wrong = isinstance(exc, ssl.SSLError)
        why = f"no certificate and key in PEM form, {exc}" if wrong else exc.strerror
        raise Refused(f"{files}: {why}") from None
    return context


def _import(name: str) -> Any:
    """As importlib.import_module. Ctrl-C ends the process meanwhile: what an import calls may show
    a KeyboardInterrupt, or go on."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored: nohup
        return importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(name)
    finally:
        signal.signal(signal.SIGINT, before)


def load(target: str) -> Any:
    """The object that MODULE:APP names. Raises Refused."""
    module_name, _, names = target.partition(":")
    try:
        found = _import(module_name)
    except ModuleNotFoundError as exc:
        if not is_part(exc.name, module_name):
            raise
        raise Refused(f"there is no module {exc.name!r} here or in sys.path") from None
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Refused(f"module {module_name!r} has no {names!r}") from None
    return found


def _is_factory(app: Any) -> bool:
    # An ASGI app takes three arguments, a factory none.
    if not callable(app) or _is_aiohttp(app):
        return False
    try:
        inspect.signature(app).bind()
    except (TypeError, ValueError):
        return False
    return True


def _is_aiohttp(app: Any) -> bool:
    web = sys.modules.get("aiohttp.web")  # imported by whoever made an Application
    return web is not None and isinstance(app, web.Application)


def _serve_aiohttp(
    app: Any, loop: Loop, args: argparse.Namespace, tls: ssl.SSLContext | None
) -> int:
    web = _import("aiohttp.web")
    if inspect.isawaitable(app):
        app = _awaited(app)
    port, host = (args.port, args.host) if args.socks is None else (None, None)
    try:
        web.run_app(app, host=host, port=port, sock=args.socks, ssl_context=tls, loop=loop)
    except OSError as exc:
        number = exc.errno
        if number is None and str(exc).startswith("could not bind on any address"):  # 3.13's
            number = errno.EADDRNOTAVAIL
        if number not in _CANNOT_LISTEN:
            raise
        raise Refused(f"{exc.strerror or exc}{_CANNOT_LISTEN[number]}") from None
    return 0


async def _awaited(made: Any) -> Any:
    app = await made
    if not _is_aiohttp(app):
        raise Refused(f"an asynchronous factory makes aiohttp apps; this one made {app!r}")
    return app


def _serve_asgi(app: Any, loop: Loop, args: argparse.Namespace) -> int:
    try:
        uvicorn = _import("uvicorn")
    except ModuleNotFoundError:
        loop.close()
        raise Refused("an ASGI app needs uvicorn: pip install uvicorn") from None
    more = {} if args.log_config is None else {"log_config": None}
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        loop="none",
        **more,
    )
    server = uvicorn.Server(config)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(server.serve(args.socks))
        except KeyboardInterrupt:  # uvicorn has shut down, and raises the signal again
            pass
    return 0 if server.started else 1
