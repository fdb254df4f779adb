"""Reattach: attaches a loop again after its session was lost.

Attaching and listening wait for an instance that may be stopped or silent, so a thread of their own
does both, and the loop takes the result. Whatever an attempt fails with, the next one follows. A
listener that cannot have its address back is tried again by itself; all else goes on without it.
"""

import threading
import weakref
from typing import Any

from .._session import discovery
from .._session.binding import Client
from .._session.log import log
from .._session.session import Session
from ..errors import InstanceError
from .listener import Listener

_FIRST, _MOST = 0.02, 2.0  # seconds between attempts

_Restored = list[tuple[Listener, int | Exception]]  # the new handle, or why there is none


class Reattach:
    """Attaches again for one lost session of a loop; `done` ends it."""

    def __init__(self, loop: Any, session: Session) -> None:
        self._loop = weakref.ref(loop)
        self._session = session
        self._delay = 0.0
        self._later(0.0)

    def _later(self, delay: float) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_later(delay, self._begin)

    def _begin(self) -> None:
        loop = self._loop()
        if loop is None or self._session.closed:
            return
        listeners = [] if self._session.forked else loop._serving()
        work = threading.Thread(
            target=self._attach,
            args=(loop._config, loop._index, listeners),
            name="ffloop-reattach",
            daemon=True,
        )
        try:
            work.start()
        except RuntimeError as exc:  # no more threads
            self._failed(exc)

    # ---- in a thread of its own ----

    def _attach(self, config: Any, index: int, listeners: list[Listener]) -> None:
        try:
            client = discovery.attach(config, index)
        except BaseException as exc:
            self._tell(self._failed, exc)
            return
        restored: _Restored = [(listener, _again(listener, client)) for listener in listeners]
        if not self._tell(self._attached, client, restored):
            client.close()

    def _tell(self, what: Any, *args: Any) -> bool:
        loop = self._loop()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # closed
            return False
        return True

    # ---- in the loop's ----

    def _failed(self, exc: BaseException) -> None:
        self._delay = _next(self._delay)
        level = log.info if isinstance(exc, InstanceError) else log.warning
        level("cannot attach again yet (%s); next attempt in %.2f s", exc, self._delay)
        self._later(self._delay)

    def _attached(self, client: Client, restored: _Restored) -> None:
        loop = self._loop()
        if loop is None or self._session.closed:
            client.close()
            return
        loop._attached_again(client)
        for listener, result in restored:
            self._restored(listener, result, 0.0)

    def _restored(self, listener: Listener, result: int | Exception, delay: float) -> None:
        loop = self._loop()
        if loop is None or self._session.ended:
            return  # the next attachment sees to it
        if listener not in loop._serving():
            if isinstance(result, int):
                self._session.client.close_socket(result)
            return
        if isinstance(result, int):
            listener.resume(result)
            return
        delay = _next(delay)
        log.warning(
            "cannot listen again on %s yet (%s); next attempt in %.2f s",
            listener.endpoint.sockname(),
            result,
            delay,
        )
        loop.call_later(delay, self._retry, listener, self._session.generation, delay)

    def _retry(self, listener: Listener, generation: int, delay: float) -> None:
        session = self._session
        if session.attached and session.generation == generation:
            self._restored(listener, _again(listener, session.client), delay)


def _again(listener: Listener, client: Client) -> int | Exception:
    try:
        return listener.again(client)
    except Exception as exc:
        return exc


def _next(delay: float) -> float:
    return min(max(delay * 2, _FIRST), _MOST)
