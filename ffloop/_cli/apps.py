"""`ffloop run MODULE:APP`: an ASGI app on uvicorn, or an aiohttp app."""

import argparse
import asyncio
import importlib
import inspect
import os
import sys
from typing import Any

from .._loop.loop import Loop, new_event_loop
from .program import Refused, log_to_stderr


def app(args: argparse.Namespace) -> int:
    """Serves args.target at args.host and args.port. Raises Refused."""
    log_to_stderr()
    sys.argv = [args.target]
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    app = load(args.target)
    if _is_factory(app):
        app = app()
    loop = new_event_loop()
    host = args.host or ("127.0.0.1" if loop.instance.stack == "host" else "0.0.0.0")
    if _is_aiohttp(app) or inspect.isawaitable(app):
        return _serve_aiohttp(app, loop, host, args.port)
    if callable(app):
        return _serve_asgi(app, loop, host, args.port)
    loop.close()
    raise Refused(f"{args.target} is {type(app).__name__}: neither an ASGI nor an aiohttp app")


def load(target: str) -> Any:
    """What MODULE:APP names. Raises Refused."""
    module_name, _, names = target.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
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
    web = sys.modules.get("aiohttp.web")  # who has made one has imported it
    return web is not None and isinstance(app, web.Application)


def _serve_aiohttp(app: Any, loop: Loop, host: str, port: int) -> int:
    web = importlib.import_module("aiohttp.web")
    if inspect.isawaitable(app):
        app = _awaited(app)
    web.run_app(app, host=host, port=port, loop=loop)
    return 0


async def _awaited(made: Any) -> Any:
    app = await made
    if not _is_aiohttp(app):
        raise Refused(f"an asynchronous factory makes aiohttp apps; this one made {app!r}")
    return app


def _serve_asgi(app: Any, loop: Loop, host: str, port: int) -> int:
    try:
        uvicorn = importlib.import_module("uvicorn")
    except ModuleNotFoundError:
        loop.close()
        raise Refused("an ASGI app needs uvicorn: pip install uvicorn") from None
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, loop="none"))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(server.serve())
        except KeyboardInterrupt:  # uvicorn has shut down, and raises the signal again
            pass
    return 0 if server.started else 1
