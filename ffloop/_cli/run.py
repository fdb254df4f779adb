"""`ffloop run`: an unchanged script, ASGI app or aiohttp app on ffloop.

For a script, every way in which it may come by a loop leads to ffloop: the policy, asyncio's own
selector loop, and uvloop, where it is installed and asked for. Processes that multiprocessing
spawns (uvicorn's and hypercorn's workers) are prepared in the same way.
"""

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import logging
import multiprocessing.spawn
import os
import re
import runpy
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from .._loop.loop import Loop, new_event_loop
from .._loop.policy import FFLoopPolicy, install
from .._session import configuration, discovery
from .._session.binding import keep_alive
from .._session.log import log
from ..errors import ConfigError, InstanceError, sentence
from . import arguments, supervisor

_APP = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


class _Refused(Exception):
    """What cannot be run, in a sentence."""


def add_command(commands: Any) -> None:
    """Adds `run` to the subcommands of `ffloop`."""
    parser = commands.add_parser(
        "run",
        help="run a script or an app on ffloop, unchanged",
        usage="ffloop run [OPTIONS] SCRIPT.py [ARGS...] | MODULE:APP",
        description="Runs a Python script, an ASGI app (with uvicorn) or an aiohttp app "
        "(web.Application, or a factory) on ffloop, with nothing in it changed. Other options "
        "are FFLOOP_ variables.",
    )
    _add_options(parser)
    parser.add_argument("target", metavar="SCRIPT.py | MODULE:APP", nargs="?")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGS", help="of the script")
    parser.set_defaults(call=_command, parser=parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--stack", choices=configuration.STACKS, help="insist on this stack (FFLOOP_STACK)")
    add("--instance", metavar="PATH", help="the instance's socket (FFLOOP_INSTANCE)")
    add(
        "--kernel-sockets",
        choices=configuration.KERNEL_SOCKETS,
        help="what becomes of sockets that the kernel made (FFLOOP_KERNEL_SOCKETS)",
    )
    add(
        "--workers",
        type=arguments.whole(1),
        metavar="N",
        help="processes; the i-th uses the i-th instance, where several run. SIGHUP replaces them, "
        "and no connection is lost",
    )
    add(
        "--grace",
        type=arguments.seconds(zero=True),
        default=1.0,
        metavar="SECONDS",
        help="with --workers: how long they go on, without new connections, before SIGTERM: when "
        "they are replaced, and when SIGTERM ends all (1)",
    )
    add("--host", help="of an app: 127.0.0.1 with the host stack, else 0.0.0.0")
    add("--port", type=arguments.port, default=8000, help="of an app: 8000")


def _command(args: argparse.Namespace) -> int:
    if args.target is None:
        args.parser.error("which SCRIPT.py or MODULE:APP?")
    script = os.path.exists(args.target)
    if os.path.isdir(args.target) and not os.path.exists(f"{args.target}/__main__.py"):
        args.parser.error(f"{args.target!r} is a directory without a __main__.py")
    if not script:
        if not _APP.fullmatch(args.target):
            args.parser.error(f"{args.target!r} is neither a script's file nor MODULE:APP")
        after = argparse.ArgumentParser(prog=args.parser.prog, usage=args.parser.usage)
        _add_options(after)
        after.parse_args(args.rest, args)  # options may follow the app's name
    if args.workers is not None and args.port == 0 and not script:
        args.parser.error("--port 0 with --workers: they would listen on different ports")
    for setting in configuration.SETTINGS.values():
        if (given := vars(args).get(setting.argument)) is not None:
            os.environ[setting.variable] = given

    def serve() -> int:
        return _script(args.target, args.rest) if script else _app(args)

    sys.excepthook = _excepthook
    try:
        config = configuration.load()
        return (
            serve()
            if args.workers is None
            else _serve_with_workers(args, config, serve, not script)
        )
    except (_Refused, ConfigError, InstanceError) as exc:
        print(f"ffloop run: {sentence(exc)}", file=sys.stderr)
        warnings.simplefilter("ignore", RuntimeWarning)  # its coroutine that was never awaited
        return 1


def _serve_with_workers(
    args: argparse.Namespace,
    config: configuration.Config,
    serve: Callable[[], int],
    forever: bool,
) -> int:
    with contextlib.ExitStack() as kept:
        embedded = _embedded_instances(args.workers, config, kept)

        def work(number: int) -> int:
            kept.close()  # the parent has its own
            instances = max(config.instances, discovery.running(config))
            os.environ["FF_NB_FSTACK_INSTANCE"] = str(instances)
            os.environ["FF_PROC_ID"] = str(config.proc_id + number)
            os.environ["FFLOOP_REUSE_PORT"] = "1"
            if embedded:
                discovery.embed(embedded[number])
            return serve()

        return supervisor.run(args.workers, work, args.grace, forever)


def _embedded_instances(
    count: int, config: configuration.Config, kept: contextlib.ExitStack
) -> list[str]:
    """One for each worker, where none runs that they could use: it stays while the worker is
    replaced, and goes with `kept`."""
    if config.instance is not None or config.stack == "fstack" or discovery.running(config):
        return []
    paths = [discovery.start(config.stack or "host") for _ in range(count)]
    for path in paths:
        kept.callback(os.close, keep_alive(path))
    return paths


class _Stderr(logging.StreamHandler[Any]):
    """Shows ffloop's own lines unless the program has set up logging itself."""

    def filter(self, record: logging.LogRecord) -> Any:
        return not logging.root.handlers


def _log_to_stderr() -> None:
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("ffloop: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _excepthook(kind: Any, exc: BaseException, trace: types.TracebackType | None) -> None:
    """Shows what the program raised as Python does, without the frames of how it was started."""
    at = trace
    while at is not None:
        if at.tb_frame.f_code in _STARTING:
            trace = at.tb_next
        at = at.tb_next
    while trace is not None and _imports(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    sys.__excepthook__(kind, exc.with_traceback(trace), trace)


def _imports(filename: str) -> bool:
    return filename.startswith("<frozen ") or filename == importlib.__file__


# ---- scripts ----


def _script(path: str, args: list[str]) -> int:
    take_over()
    sys.argv = [path, *args]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")
    return 0


def take_over() -> None:
    """Makes every loop of this process an ffloop.Loop, and of those that it spawns."""
    _log_to_stderr()
    install()
    standard: Any = asyncio
    for name in ("SelectorEventLoop", "EventLoop"):  # the second is of Python 3.13
        if hasattr(standard, name):
            setattr(standard, name, _SelectorEventLoop)
    if importlib.util.find_spec("uvloop") is not None:
        sys.modules["uvloop"] = _uvloop()
    spawn: Any = multiprocessing.spawn
    spawn.get_command_line = _spawn_command


class _SelectorEventLoop(Loop):
    """asyncio.SelectorEventLoop's constructor."""

    def __init__(self, selector: Any = None) -> None:
        if selector is not None:
            log.warning("%r is not used: ffloop has a selector of its own", selector)
        super().__init__()


def _uvloop() -> types.ModuleType:
    """A module in uvloop's place. `ffloop run` is the newer word on which loop it is to be."""

    def run(main: Any, *, loop_factory: Any = new_event_loop, debug: Any = None, **_: Any) -> Any:
        with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
            return runner.run(main)

    module: Any = types.ModuleType("uvloop", "ffloop, in uvloop's place under `ffloop run`.")
    module.__spec__ = importlib.util.find_spec("uvloop")
    module.__version__ = "0.0"
    module.Loop = Loop
    module.EventLoopPolicy = FFLoopPolicy
    module.new_event_loop = new_event_loop
    module.install = install
    module.run = run
    return module  # type: ignore[no-any-return]


_plain_spawn_command = multiprocessing.spawn.get_command_line


def _spawn_command(**kwargs: Any) -> list[str]:
    command: list[str] = _plain_spawn_command(**kwargs)
    if "-c" in command:
        program = command.index("-c") + 1
        command[program] = f"from {__name__} import take_over; take_over(); {command[program]}"
    return command


# ---- apps ----


def _app(args: argparse.Namespace) -> int:
    _log_to_stderr()
    sys.argv = [args.target]
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    app = _load(args.target)
    if _is_factory(app):
        app = app()
    loop = new_event_loop()
    host = args.host or ("127.0.0.1" if loop.instance.stack == "host" else "0.0.0.0")
    if _is_aiohttp(app) or inspect.isawaitable(app):
        return _serve_aiohttp(app, loop, host, args.port)
    if callable(app):
        return _serve_asgi(app, loop, host, args.port)
    loop.close()
    raise _Refused(f"{args.target} is {type(app).__name__}: neither an ASGI nor an aiohttp app")


def _load(target: str) -> Any:
    module_name, _, names = target.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise _Refused(f"there is no module {exc.name!r} here or in sys.path") from None
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise _Refused(f"module {module_name!r} has no {names!r}") from None
    return found


_STARTING = {function.__code__ for function in (_script, _app, _load)}


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
        raise _Refused(f"an asynchronous factory makes aiohttp apps; this one made {app!r}")
    return app


def _serve_asgi(app: Any, loop: Loop, host: str, port: int) -> int:
    try:
        uvicorn = importlib.import_module("uvicorn")
    except ModuleNotFoundError:
        loop.close()
        raise _Refused("an ASGI app needs uvicorn: pip install uvicorn") from None
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, loop="none"))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(server.serve())
        except KeyboardInterrupt:  # uvicorn has shut down, and raises the signal again
            pass
    return 0 if server.started else 1
