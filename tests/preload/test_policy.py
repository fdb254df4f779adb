"""Odd strings have one answer, whoever is asked: the loop, the shim, `ffloop doctor`."""

import os
import socket
from pathlib import Path

import pytest
from shim import Instance, python

import ffloop
from ffloop import ConfigError
from ffloop._cli import doctor
from ffloop._session import configuration

ADDRESSES = ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0")

# Binds to each address and prints whether the kernel has this process's own descriptor there.
BINDER = """
import os, socket, sys
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as s:
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.bind((address, 0))
        s.listen()
        table = "/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp"
        inode = str(os.fstat(s.fileno()).st_ino)
        lines = open(table).read().splitlines()[1:]
        print("kernel" if any(line.split()[9] == inode for line in lines) else "stack")
"""

S, K = "stack", "kernel"


@pytest.mark.parametrize(
    ("routes", "answers"),
    [
        ("127.0.0.0/8=kernel", (K, K, S, K, S)),
        ("10.0.0.0/8=stack, 127.0.0.0/8=kernel", (K, K, S, K, S)),
        (" 127.0.0.1 = Kernel ,\t::1=KERNEL,, ", (K, S, K, K, S)),
        ("::ffff:127.0.0.0/104=kernel", (K, K, S, K, S)),
        ("127.8.0.0/16=stack,0.0.0.0/0=kernel", (K, S, S, K, K)),
        ("::/0=kernel", (S, S, K, S, S)),
        ("127.0.0.0/9=kernel", (K, K, S, K, S)),
    ],
)
def test_routes(shared_instance: Instance, routes: str, answers: tuple[str, ...]) -> None:
    done = python(BINDER, *ADDRESSES, env=shared_instance.environment(FFLOOP_ROUTES=routes))
    assert (done.returncode, done.stderr) == (0, "")
    assert tuple(done.stdout.split()) == answers
    assert loop_answers(shared_instance, routes) == answers


def loop_answers(instance: Instance, routes: str) -> tuple[str, ...]:
    loop = ffloop.new_event_loop(instance=instance.path, routes=routes)
    try:
        return tuple(
            S if loop._router.on_stack(family, (address, 0)) else K
            for address in ADDRESSES
            for family in [socket.AF_INET6 if ":" in address else socket.AF_INET]
        )
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FFLOOP_ROUTES", "127.0.0.1/8=kernel"),
        ("FFLOOP_ROUTES", "10.0.0.0/8=stack,127.0.0.0/8x=kernel"),
        ("FFLOOP_ROUTES", "127.0.0.0/8=moon"),
        ("FFLOOP_ROUTES", "127.0.0.0/8"),
        ("FFLOOP_ROUTES", "localhost=kernel"),
        ("FFLOOP_STACK", "linux"),
        ("FF_NB_FSTACK_INSTANCE", "0x2"),
        ("FF_NB_FSTACK_INSTANCE", "2000"),
        ("FF_PROC_ID", "first"),
        ("FF_INITIAL_LCORE_ID", "0x0"),
        ("FFLOOP_SPIN_US", "-1"),
        ("FFLOOP_SPIN_US", "50us"),
        ("FFLOOP_TX_CAP", "1_000"),
        ("FFLOOP_DUAL_LISTEN", "on"),
    ],
)
def test_malformed(
    shared_instance: Instance, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The loop raises the sentence that the shim and doctor print."""
    for name in [n for n in os.environ if n.startswith(("FFLOOP_", "FF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as raised:
        configuration.load()
    sentence = str(raised.value)
    assert sentence.startswith(variable)
    [found] = doctor.variables(doctor.Machine())
    assert (found.level, found.found) == ("fail", sentence)
    done = python(BINDER, "127.0.0.1", env=shared_instance.environment(**{variable: value}))
    assert f"libff_syscall: {sentence}\n" in done.stderr
    refused = configuration.SETTINGS[variable].places
    assert ("Network is down" in done.stderr) == refused
    assert (done.stdout == "") == refused


@pytest.mark.parametrize(("mode", "safe"), [(0o755, True), (0o1777, True), (0o777, False)])
def test_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, safe: bool
) -> None:
    """Loop, shim and doctor trust the same directories."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("FFLOOP_INSTANCE", raising=False)
    folder = tmp_path / "ffloop"
    folder.mkdir(mode=0o755)
    instance = Instance(folder)  # started while it was safe
    try:
        folder.chmod(mode)
        places = [f for f in doctor.place(doctor.Machine()) if f.what == "usual place"]
        environment = instance.environment()
        del environment["FFLOOP_INSTANCE"]
        shim = python(BINDER, "127.0.0.1", env=environment)
        if safe:
            assert places == []
            loop = ffloop.new_event_loop()
            assert loop.instance.path == instance.path
            loop.close()
            assert shim.stdout == "stack\n"
            return
        with pytest.raises(ffloop.InstanceUnsafe) as raised:
            ffloop.new_event_loop()
        assert places[0].found in str(raised.value)
        assert places[0].found in shim.stderr
    finally:
        folder.chmod(0o755)
        instance.stop()
