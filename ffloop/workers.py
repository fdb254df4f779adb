"""gunicorn's worker classes on ffloop, made when asked for: gunicorn is not needed for the rest.

`gunicorn -k ffloop.workers.AiohttpWorker app:app` serves an aiohttp app (aiohttp is installed),
`gunicorn -k ffloop.workers.UvicornWorker app:app` an ASGI app (uvicorn-worker is installed).
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

from ._loop.loop import new_event_loop

if TYPE_CHECKING:
    AiohttpWorker: Any
    UvicornWorker: Any

__all__ = ["AiohttpWorker", "UvicornWorker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _aiohttp_worker() if name == "AiohttpWorker" else _uvicorn_worker()
    return made


def _aiohttp_worker() -> type:
    base: Any = _base("aiohttp.worker", "GunicornWebWorker", "aiohttp")

    class AiohttpWorker(base):  # type: ignore[misc]
        """aiohttp's worker, with a loop of ours."""

        def init_process(self) -> None:
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)
            super(base, self).init_process()  # not by base's: it makes a loop of asyncio's

    return AiohttpWorker


def _uvicorn_worker() -> type:
    base: Any = _base("uvicorn_worker", "UvicornWorker", "uvicorn-worker")

    class UvicornWorker(base):  # type: ignore[misc]
        """uvicorn's worker."""

        CONFIG_KWARGS = {**base.CONFIG_KWARGS, "loop": "ffloop:new_event_loop"}  # noqa: RUF012

    return UvicornWorker


def _base(module: str, name: str, package: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"this worker needs gunicorn and {package} ({exc}): pip install gunicorn {package}"
        ) from None
