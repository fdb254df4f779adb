"""`ffloop run`: an unchanged script or app on ffloop, in one process or several."""

import argparse
import contextlib
import importlib
import os
import re
import shlex
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from os.path import dirname
from typing import Any, NoReturn

from .._session import choice, configuration, direct, discovery
from .._session.binding import keep_alive
from ..errors import ConfigError, InstanceError, sentence
from . import apps, parser, program, supervisor, watching
from .arguments import Refused, say

_APP = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


def main(args: argparse.Namespace) -> int:
    """Runs args.target, or the module args.m. Returns an exit status."""
    sys.excepthook = _excepthook
    serve = _what(args)
    is_app = _is_app(args)
    if not is_app:
        _refuse_options_of_apps(args)
    if args.reload_dir and not args.reload:
        args.parser.error("--reload-dir without --reload")
    if args.ssl_keyfile is not None and args.ssl_certfile is None:
        args.parser.error("--ssl-keyfile without --ssl-certfile")
    if args.reload and args.workers is None:
        args.workers, args.grace = 1, 0.0
    if args.workers is not None and args.port == 0 and is_app:
        args.parser.error(
            "--port 0 with --workers or --reload: they would listen on different ports"
        )
    if args.direct:
        args.instance = choice.DIRECT
    if args.fstack and args.stack is None:
        args.stack = "fstack"
    for setting in configuration.SETTINGS.values():
        if (given := vars(args).get(setting.argument)) is not None:
            os.environ[setting.variable] = given
    try:
        config = configuration.load()
        if is_app:
            apps.prepare(args, shared=args.workers is not None and _without_instance(config))
        return serve() if args.workers is None else _serve_with_workers(args, config, serve)
    except (Refused, ConfigError, InstanceError) as exc:
        say(sentence(exc))
        warnings.simplefilter("ignore", RuntimeWarning)  # of a coroutine that was never awaited
        return 1


def _is_app(args: argparse.Namespace) -> bool:
    return args.m is None and not os.path.exists(args.target)


_OF_APPS = (
    *("host", "port", "uds", "fd", "ssl_certfile", "ssl_keyfile", "log_config"),
    *("reload", "reload_dir"),
)


def _refuse_options_of_apps(args: argparse.Namespace) -> None:
    """A script would not see them: its own options come after its name."""
    for name in _OF_APPS:
        if getattr(args, name) != args.parser.get_default(name):
            args.parser.error(f"--{name.replace('_', '-')} is for MODULE:APP")


def _what(args: argparse.Namespace) -> Callable[[], int]:
    """The call that serves, in this process or in each worker. Exits with a hint where the target
    is nothing that can be run."""
    if args.m:
        return partial(program.module, args.m[0], args.m[1:])
    if args.m is not None or args.target is None:
        args.parser.error("which SCRIPT.py, MODULE:APP or -m MODULE?")
    if not os.path.exists(args.target):
        if not _APP.fullmatch(args.target):
            _explain(args)
        after = argparse.ArgumentParser(prog=args.parser.prog, usage=args.parser.usage)
        parser.run_options(after)
        after.parse_args(args.rest, args)  # options that follow the app's name
        return partial(apps.app, args)
    if os.path.isdir(args.target) and not os.path.exists(f"{args.target}/__main__.py"):
        args.parser.error(f"{args.target!r} is a directory without a __main__.py")
    if not os.access(args.target, os.R_OK):
        args.parser.error(f"{args.target}: Permission denied")
    return partial(program.script, args.target, args.rest)


def _explain(args: argparse.Namespace) -> NoReturn:
    words = f"{args.target!r} is neither a script's file nor MODULE:APP"
    found = shutil.which(args.target) or shutil.which(args.target, path=dirname(sys.executable))
    if found is not None:
        words += f"; it is a command: `ffloop run {shlex.join([found, *args.rest])}`"
        apps_given = [word for word in args.rest if _APP.fullmatch(word)]
        if apps_given:
            words += f", or the app alone: `ffloop run {apps_given[0]}`"
    args.parser.error(words)
    raise AssertionError("argparse exits")


def _serve_with_workers(
    args: argparse.Namespace, config: configuration.Config, serve: Callable[[], int]
) -> int:
    with contextlib.ExitStack() as kept:
        embedded = _embedded_instances(args.workers, config, kept)

        def work(number: int) -> int:
            kept.close()  # the supervisor has its own
            instances = max(config.instances, discovery.running(config))
            os.environ["FF_NB_FSTACK_INSTANCE"] = str(instances)
            os.environ["FF_PROC_ID"] = str(config.proc_id + number)
            os.environ["FFLOOP_REUSE_PORT"] = "1"
            if direct.asked(config) and not config.initial_lcore:
                os.environ["FF_INITIAL_LCORE_ID"] = f"{1 << min(os.sched_getaffinity(0)):x}"
            if embedded:
                discovery.embed(embedded[number])
            return serve()

        def watch() -> None:
            if args.reload:
                watching.start(args.reload_dir or ["."])

        def close_listeners() -> None:
            # The sockets that all workers share: left open, they would queue connections that no
            # worker accepts.
            for sock in getattr(args, "socks", None) or ():
                sock.close()

        return supervisor.run(
            args.workers,
            work,
            args.grace,
            _is_app(args),
            watch,
            led=direct.asked(config),
            patient=args.reload,
            at_end=close_listeners,
        )


def _without_instance(config: configuration.Config) -> bool:
    return choice.is_direct(config) or (
        choice.may_be_direct(config) and not discovery.running(config)
    )


def _embedded_instances(
    count: int, config: configuration.Config, kept: contextlib.ExitStack
) -> list[str]:
    """The path of one embedded instance per worker, where workers use one; else []. It outlives its
    worker's replacement, and ends with `kept`."""
    if config.instance != choice.SPAWN:
        return []
    paths = [discovery.start(config.stack or "host") for _ in range(count)]
    for path in paths:
        kept.callback(os.close, keep_alive(path))
    return paths


def _excepthook(kind: Any, exc: BaseException, trace: types.TracebackType | None) -> None:
    """Shows the program's exception as Python does, without the frames that started the program."""
    if issubclass(kind, KeyboardInterrupt):
        return  # Ctrl-C: the signal ends the process
    at = trace
    while at is not None:
        if at.tb_frame.f_code.co_filename in _STARTING:
            trace = at.tb_next
        at = at.tb_next
    while trace is not None and _imports(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    sys.__excepthook__(kind, exc.with_traceback(trace), trace)


_STARTING = {program.__file__, apps.__file__}


def _imports(filename: str) -> bool:
    return filename.startswith("<frozen ") or filename == importlib.__file__
