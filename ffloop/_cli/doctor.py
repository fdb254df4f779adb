"""`ffloop doctor`: what this machine has and lacks for each stack, and how to mend it.

A check is a function that takes a Machine and yields findings. A Machine reads /proc, /sys and the
environment, or a tree that a test made.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .. import __version__
from .._session import choice, configuration, discovery, stats_page
from .._session.binding import Client, kernel_calls
from ..errors import ConfigError, InstanceError, sentence

Level = Literal["ok", "note", "warn", "fail"]
_SESSION_KIB = 277 * 1024  # an ordinary session's segment
_CONNECTIONS = 4096  # least descriptors for a busy server on the host stack
_DPDK_DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")
_FSTACK_PAGES_KIB = 150 * 2048
_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 14: "CAP_IPC_LOCK", 21: "CAP_SYS_ADMIN"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The thing checked (`what`), its state (`found`), and how to mend it ("": nothing to mend).

    ok: as it should be. note: works, could be better. warn: will get in the way. fail: the stack
    cannot run.
    """

    stack: str  # "all", "host", "fstack"
    what: str
    level: Level
    found: str
    mend: str = ""


class Machine:
    """This machine, or the tree at `root`."""

    def __init__(self, root: str = "/") -> None:
        self.root = Path(root)
        self.environ = os.environ
        self.uid = os.geteuid()

    def text(self, path: str) -> str:
        """A file's text; "" where the file cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        found = self.text(path).strip()
        return int(found) if found.isdecimal() else None

    def names(self, path: str) -> list[str]:
        """A directory's entries, sorted; none where it cannot be read."""
        try:
            return sorted(entry.name for entry in (self.root / path.lstrip("/")).iterdir())
        except OSError:
            return []

    def link(self, path: str) -> str:
        """The last part of a link's target; "" where there is no link."""
        try:
            return os.path.basename((self.root / path.lstrip("/")).readlink())
        except OSError:
            return ""

    def meminfo(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", self.text("/proc/meminfo"), re.MULTILINE)
        return int(found.group(1)) if found else 0


# ---- every stack -----------------------------------------------------------------------------


def versions(machine: Machine) -> Iterator[Finding]:
    libc, version = platform.libc_ver()
    found = f"ffloop {__version__}, Python {platform.python_version()}, {libc or 'not glibc'}"
    if libc == "glibc":
        yield Finding("all", "versions", "ok", f"{found} {version}")
    else:
        mend = (
            "a system with glibc (Debian, Ubuntu, Fedora): ffloop is not tried on musl (Alpine), "
        )
        yield Finding("all", "versions", "warn", found, mend + "and the shim is for glibc only")


def proc(machine: Machine) -> Iterator[Finding]:
    """Instances are found in /proc, and open their own descriptors through it."""
    if machine.text("/proc/self/status"):
        yield Finding("all", "/proc", "ok", "mounted")
    else:
        mend = "mount -t proc proc /proc; in a container: do not mask it"
        yield Finding("all", "/proc", "fail", "not mounted, or not to be read", mend)


def file_size(machine: Machine) -> Iterator[Finding]:
    """RLIMIT_FSIZE: a session's segment counts as a file."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _SESSION_KIB * 1024:
        mend = "`ulimit -f unlimited`, or LimitFSIZE=infinity: shared memory counts as a file"
        found = f"{limit} bytes; a session's shared memory may have {_SESSION_KIB} KiB"
        yield Finding("all", "file size", "fail", found, mend)
    else:
        yield Finding("all", "file size", "ok", "shared memory fits")


def kernel(machine: Machine) -> Iterator[Finding]:
    """Tries the system calls that sessions need."""
    release = machine.text("/proc/sys/kernel/osrelease").strip() or platform.release()
    calls = kernel_calls()
    for call in calls:
        if call.lacking:
            level: Level = "note" if call.without else "fail"
            found = f"{release} lacks {call.name} ({call.lacking})"
            mend = "a newer kernel, or a seccomp profile that admits this call"
            yield Finding(
                "all", "kernel", level, "; ".join(filter(None, (found, call.without))), mend
            )
    if not any(call.lacking for call in calls):
        found = ", ".join(call.name for call in calls)
        yield Finding("all", "kernel", "ok", f"{release}: {found}")


def cores(machine: Machine) -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0))
    nodes = [n for n in machine.names("/sys/devices/system/node") if re.fullmatch(r"node\d+", n)]
    found = f"{allowed} for this process, {max(len(nodes), 1)} NUMA node(s)"
    if allowed < 2:
        mend = "give the process a second core: instance and application then run side by side"
        yield Finding("all", "cores", "note", found, mend)
    elif len(nodes) > 1:
        mend = "keep an instance, its applications and its NIC on one node (numactl, taskset)"
        yield Finding("all", "cores", "note", found, mend)
    else:
        yield Finding("all", "cores", "ok", found)


def descriptors(machine: Machine) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} open files (hard limit {hard})"
    if soft < _CONNECTIONS:
        mend = f"`ulimit -n {min(hard, 65536)}`, or LimitNOFILE= in the instance's unit"
        yield Finding("host", "descriptors", "warn", f"{found}: one per connection", mend)
    else:
        yield Finding("host", "descriptors", "ok", found)


def memory(machine: Machine) -> Iterator[Finding]:
    free = machine.meminfo("MemAvailable")
    limit = machine.number("/sys/fs/cgroup/memory.max")
    found = f"{free // 1024} MiB available"
    if limit is not None:
        free = min(free, limit // 1024)
        found += f", the control group's limit is {limit >> 20} MiB"
    if free < 2 * _SESSION_KIB:
        mend = "a smaller pool: FFLOOP_POOL_KIB=16384, or `ffloop instance --pool-kib 16384`"
        yield Finding(
            "all", "memory", "warn", f"{found}; a session may use {_SESSION_KIB >> 10} MiB", mend
        )
    else:
        yield Finding("all", "memory", "ok", found)


def variables(machine: Machine) -> Iterator[Finding]:
    """The environment's settings, parsed as the loop and the shim parse them."""
    given = [name for name in configuration.SETTINGS if machine.environ.get(name)]
    malformed = 0
    for name in given:
        try:
            configuration.value(name)
        except ConfigError as exc:
            malformed += 1
            mend = f"set it as docs/configuration.md says, or unset {name}"
            yield Finding("all", "variables", "fail", str(exc), mend)
    if not malformed:
        yield Finding("all", "variables", "ok", ", ".join(given) or "none is set")


def place(machine: Machine) -> Iterator[Finding]:
    """The paths of instances, the one that is named or the default ones, and the instances that
    run."""
    named = machine.environ.get("FFLOOP_INSTANCE") or None
    if named in (choice.DIRECT, choice.SPAWN):
        named = None
    for socket in choice.places(named, 0):
        directory = os.path.dirname(socket) or "."
        if found := discovery.unsafe(socket):
            mend = f"chown {machine.uid} {directory}; chmod 755 {directory}"
            yield Finding("all", "place" if named else "usual place", "warn", found, mend)
    running = []
    for pid in stats_page.pids():
        try:
            one = stats_page.read(pid, sockets=False)
        except InstanceError:
            continue
        running.append(f"{one.stack} at {one.path} (pid {pid}, {one.state})")
        if one.state in ("stopped", "stuck"):
            mend = f"kill -CONT {pid}" if one.state == "stopped" else f"see its log; kill {pid}"
            yield Finding("all", "instance", "warn", f"pid {pid} is {one.state}", mend)
    found = "; ".join(running) or "none of yours: programs start an embedded one"
    yield Finding("all", "instances", "ok", found)
    if named and not _runs_at(named):
        mend = f"start it: ffloop instance --socket {named}; or unset FFLOOP_INSTANCE"
        found = f"FFLOOP_INSTANCE={named}, and no instance of yours is there"
        yield Finding("all", "instance", "warn", found, mend)


def _runs_at(path: str) -> bool:
    try:
        return bool(stats_page.find(path))
    except InstanceError:
        return False


# ---- the stacks ------------------------------------------------------------------------------


def built(machine: Machine) -> Iterator[Finding]:
    """The instance's executable, and what it says of F-Stack."""
    try:
        path = discovery.executable()
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except (InstanceError, OSError, subprocess.TimeoutExpired) as exc:
        mend = "reinstall ffloop with `pip install --force-reinstall`"
        yield Finding("all", "executable", "fail", str(exc), mend)
        return
    if done.returncode != 0:
        mend = "reinstall ffloop with `pip install --force-reinstall`"
        yield Finding("all", "executable", "fail", done.stderr.strip()[:200], mend)
        return
    yield Finding("all", "executable", "ok", path)
    if version := re.search(r"^stacks: .*, fstack \((.*)\)$", done.stdout, re.M):
        yield Finding("fstack", "ffloop-fstack", "ok", version.group(1))
    else:
        found, _, mend = done.stdout.partition("no fstack: ")[2].strip().rpartition(": ")
        yield Finding("fstack", "ffloop-fstack", "fail", found, mend)


def trial(machine: Machine) -> Iterator[Finding]:
    """Starts an embedded instance with the host stack, attaches, and makes one round trip."""
    began = time.monotonic()
    try:
        client = Client(discovery.start("host"), configuration.load({}))
        try:
            client.ping()
        finally:
            client.close()
    except (ConfigError, InstanceError) as exc:
        mend = "see above; FFLOOP_INSTANCE_LOG=FILE keeps the instance's words"
        yield Finding("host", "a trial", "fail", sentence(exc), mend)
        return
    took = (time.monotonic() - began) * 1000
    yield Finding("host", "a trial", "ok", f"an instance answered after {took:.0f} ms")


def privilege(machine: Machine) -> Iterator[Finding]:
    found = re.search(r"^CapEff:\s*(\w+)", machine.text("/proc/self/status"), re.MULTILINE)
    have = int(found.group(1), 16) if found else 0
    missing = [name for bit, name in _CAPABILITIES.items() if not have >> bit & 1]
    if missing:
        mend = "run the instance as root, applications as any user: --any-user admits them"
        yield Finding("fstack", "privilege", "warn", f"without {', '.join(missing)}", mend)
    else:
        yield Finding("fstack", "privilege", "ok", "all that DPDK asks for")


def hugepages(machine: Machine) -> Iterator[Finding]:
    size = machine.meminfo("Hugepagesize") or 2048
    free = machine.meminfo("HugePages_Free") * size
    if free < _FSTACK_PAGES_KIB:
        found = f"{free // 1024} MiB free, F-Stack starts with {_FSTACK_PAGES_KIB // 1024}"
        mend = f"sysctl -w vm.nr_hugepages={1024 * 1024 // size}"
        yield Finding("fstack", "huge pages", "fail", found, mend)
    else:
        yield Finding("fstack", "huge pages", "ok", f"{free // 1024} MiB free")
    if " hugetlbfs " not in machine.text("/proc/mounts"):
        mend = "mkdir -p /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages"
        yield Finding("fstack", "hugetlbfs", "fail", "not mounted", mend)
    else:
        yield Finding("fstack", "hugetlbfs", "ok", "mounted")


def devices(machine: Machine) -> Iterator[Finding]:
    """Network devices on PCI, and their drivers."""
    ready: list[str] = []
    others: list[str] = []
    for address in machine.names("/sys/bus/pci/devices"):
        base = f"/sys/bus/pci/devices/{address}"
        if not machine.text(f"{base}/class").startswith("0x02"):
            continue
        driver = machine.link(f"{base}/driver") or "none"
        (ready if driver in _DPDK_DRIVERS else others).append(f"{address} ({driver})")
    if ready:
        yield Finding("fstack", "devices", "ok", f"DPDK's: {', '.join(ready)}")
    else:
        mend = "dpdk-devbind.py -b vfio-pci ADDRESS for a NIC that the kernel can spare; or none: "
        mend += "`ffloop instance --stack fstack --iface NAME` goes over a kernel interface"
        found = f"none is DPDK's; the kernel's: {', '.join(others) or 'none'}"
        yield Finding("fstack", "devices", "note", found, mend)
        return
    if any("vfio-pci" in text for text in ready) and not machine.names("/sys/kernel/iommu_groups"):
        mend = "intel_iommu=on or amd_iommu=on on the kernel's command line; or, without: "
        mend += "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
        yield Finding("fstack", "IOMMU", "warn", "vfio-pci without IOMMU groups", mend)


def spare_core(machine: Machine) -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0))
    if allowed < 2:
        mend = "a machine, container or affinity with two cores or more"
        found = "one core: F-Stack polls on it, and applications starve"
        yield Finding("fstack", "a core of its own", "warn", found, mend)
    else:
        yield Finding("fstack", "a core of its own", "ok", f"{allowed - 1} left for applications")


CHECKS: list[Callable[[Machine], Iterator[Finding]]] = [
    *(versions, proc, built, kernel, file_size, cores, memory, variables, place),
    *(descriptors, trial),
    *(privilege, hugepages, devices, spare_core),
]


def _look(check: Callable[[Machine], Iterator[Finding]], machine: Machine) -> Iterator[Finding]:
    try:
        yield from check(machine)
    except OSError as exc:  # the machine refuses even to be examined
        yield Finding("all", check.__name__, "fail", sentence(exc), "see the other findings")


def examine(machine: Machine) -> list[Finding]:
    """The findings of every check, grouped by stack."""
    found = [finding for check in CHECKS for finding in _look(check, machine)]
    return sorted(found, key=lambda finding: ("all", "host", "fstack").index(finding.stack))


# ---- the command -----------------------------------------------------------------------------


def main(args: argparse.Namespace) -> int:
    """Prints the findings. Returns 1 where args.stack cannot run."""
    findings = examine(Machine())
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    bad = [f for f in findings if f.level == "fail" and f.stack in ("all", args.stack)]
    return 1 if bad else 0


_MARKS = {"ok": "[green]ok[/]", "note": "note", "warn": "[yellow]warn[/]", "fail": "[red]lacks[/]"}
_TITLES = {"all": "Every stack", "host": "host", "fstack": "fstack"}


def _print(findings: list[Finding]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    stack = ""
    for one in findings:
        if one.stack != stack:
            table.add_section()
        title = f"[bold]{_TITLES[one.stack]}[/]" if one.stack != stack else ""
        text = escape(one.found) + (f"\n[cyan]{escape(one.mend)}[/]" if one.mend else "")
        table.add_row(title, _MARKS[one.level], escape(one.what), text)
        stack = one.stack
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120).print(table)
