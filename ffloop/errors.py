"""Exceptions about the instance. All are OSError, so `except OSError` keeps working.

Errors of a socket (refused, reset, in use...) are the standard ones, with the standard errno.
"""

import errno
import os


class InstanceError(OSError):
    """Something is wrong with the ffloop instance, not with a connection."""


class InstanceNotFound(InstanceError):
    """No instance answers at the path, or its executable is missing."""


class InstanceDenied(InstanceError):
    """The file system does not let this user open the instance's socket."""


class InstanceUnsafe(InstanceError):
    """The socket's place is one where another user could have put a socket of his own."""


class InstanceRefused(InstanceError):
    """The instance refused this user, or has no room for another session."""


class VersionMismatch(InstanceError):
    """The instance speaks another version of the shared-memory layout."""


class ProtocolError(InstanceError):
    """What answers at the path is not an ffloop instance, or it broke the protocol."""


class InstanceGone(ConnectionResetError, InstanceError):
    """The session with the instance has ended. Connections are lost with this; it is a
    ConnectionResetError."""


class ConfigError(ValueError):
    """An option or an FFLOOP_ variable has a value that cannot be used."""


class StackUnavailable(InstanceError):
    """The stack asked for is not the one that the instance runs."""


_NOT_THERE = (InstanceNotFound, "start one with `ffloop instance`, or unset FFLOOP_INSTANCE")

_ATTACH: dict[int, tuple[type[InstanceError], str]] = {
    errno.ENOENT: _NOT_THERE,
    errno.ECONNREFUSED: _NOT_THERE,
    errno.EACCES: (InstanceDenied, "run as the instance's user or group"),
    errno.EPROTONOSUPPORT: (
        VersionMismatch,
        "install the same ffloop version for the instance and the application",
    ),
    errno.EPERM: (
        InstanceRefused,
        "run as a user that the instance admits, or start it so that it admits this one",
    ),
    errno.ENOTUNIQ: (InstanceUnsafe, ""),
    errno.EUSERS: (
        InstanceRefused,
        "end other sessions, or raise the limit where the instance is started",
    ),
    errno.EPROTO: (ProtocolError, "FFLOOP_INSTANCE must name an ffloop instance's socket"),
}


def error(code: int) -> OSError:
    """The OSError (subclass) for a positive errno."""
    return OSError(code, os.strerror(code))


def attach_error(code: int, path: str, why: str) -> InstanceError:
    """The exception for a failed attach: `code` is a positive errno, `why` the core's sentence."""
    cls, advice = _ATTACH.get(code, (InstanceError, ""))
    message = why or os.strerror(code)
    if f"instance at {path!r}" not in message:
        message = f"ffloop instance at {path!r}: {message}"
    if advice:
        message = f"{message} ({advice})"
    return cls(code, message)


def sentence(exc: Exception) -> str:
    """What an error says to somebody at a terminal: without the number."""
    if not isinstance(exc, OSError) or not exc.strerror:
        return str(exc)
    return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror


def gone(why: str) -> InstanceGone:
    """The exception for what was lost with a session: `why` says what ended that."""
    return InstanceGone(errno.ECONNRESET, f"connection lost with the ffloop session: {why}")
