"""Finds what `ffloop stat` and `ffloop top` show: instances, and processes with direct loops."""

from .._session import stats_page
from .._session.stats_page import Instance
from ..errors import InstanceDenied, InstanceError, InstanceNotFound


def collect(target: str | None = None) -> tuple[list[Instance], list[str]]:
    """Every instance and direct loop that this user may read, and a sentence for each instance that
    he may not. With a target (path or pid) that instance; raises an InstanceError when it cannot be
    read."""
    if target is not None:
        return [stats_page.read(stats_page.find(target))], []
    found, refused = [], []
    for pid in stats_page.pids():
        try:
            found.append(stats_page.read(pid))
        except InstanceDenied as exc:
            refused.append(str(exc.strerror))
        except InstanceError as exc:
            if stats_page.alive(pid):
                refused.append(str(exc.strerror))
    found += stats_page.loops()
    return found, refused


def some(target: str | None) -> tuple[list[Instance], list[str]]:
    """As collect(), but raises InstanceNotFound where nothing is found."""
    instances, refused = collect(target)
    if not instances:
        why = "; ".join(refused) or "no ffloop instance runs on this machine"
        raise InstanceNotFound(2, why)
    return instances, refused
