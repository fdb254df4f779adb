"""The pure parts: options, routes, addresses, error messages, the command."""

import ast
import errno
import importlib.metadata
import inspect
import os
import shutil
import socket
import subprocess
import sys
import warnings

import pytest
from common import instances
from common.processes import completed

import ffloop
from ffloop import errors
from ffloop._cli import main
from ffloop._session import address, choice, configuration, discovery, hot, native, routing
from ffloop._session.options import KERNEL_SOCKETS, STACKS, LoopOptions


def test_config_defaults():
    config = configuration.load({})
    assert (config.instance, config.stack, config.routes) == (None, None, "")
    assert (config.spin_us, config.reconnect) == (configuration.SPIN_AUTO, True)
    assert (config.instances, config.proc_id, config.timeout_ms) == (1, 0, 0)


def test_config_from_the_environment_and_arguments():
    environ = {"FFLOOP_INSTANCE": "/a", "FFLOOP_SPIN_US": "forever", "FFLOOP_RECONNECT": "0"}
    config = configuration.load(environ)
    assert (config.instance, config.spin_us, config.reconnect) == ("/a", -1, False)
    config = configuration.load(environ, instance="/b", spin_us=7, reconnect=True)
    assert (config.instance, config.spin_us, config.reconnect) == ("/b", 7, True)
    assert configuration.load({"FFLOOP_INSTANCE": ""}).instance is None


@pytest.mark.parametrize(
    ("environ", "arguments", "words"),
    [
        ({"FFLOOP_SPIN_US": "fast"}, {}, "FFLOOP_SPIN_US='fast'.*microseconds"),
        ({"FFLOOP_STACK": "linux"}, {}, "FFLOOP_STACK='linux'.*'host'"),
        ({}, {"spin_us": -5}, "spin_us='-5'"),
        ({"FFLOOP_KERNEL_SOCKETS": "steal"}, {}, "'adopt', 'both', 'kernel' or 'error'"),
        ({}, {"reconnect": "maybe"}, "reconnect='maybe'"),
        ({"FFLOOP_TX_CAP": "1e6"}, {}, "FFLOOP_TX_CAP"),
        ({"FF_NB_FSTACK_INSTANCE": "0"}, {}, "FF_NB_FSTACK_INSTANCE='0'.*from 1 to 1024"),
        ({"FF_PROC_ID": "first"}, {}, "FF_PROC_ID='first'"),
        ({"FF_INITIAL_LCORE_ID": "0x0"}, {}, "FF_INITIAL_LCORE_ID.*hexadecimal"),
    ],
)
def test_config_errors(environ, arguments, words):
    with pytest.raises(ffloop.ConfigError, match=words):
        configuration.load(environ, **arguments)


def test_cpu_of_a_worker():
    assert configuration.load({}).cpu() is None
    assert configuration.load({"FF_INITIAL_LCORE_ID": "0x4"}).cpu() == 2
    assert configuration.load({"FF_INITIAL_LCORE_ID": "4", "FF_PROC_ID": "3"}).cpu() == 5


def test_cpu_that_is_not_there():
    with pytest.raises(ffloop.ConfigError, match=r"CPU 63.*this machine has"):
        ffloop.new_event_loop(initial_lcore="8000000000000000")


@pytest.mark.parametrize(
    ("path", "index", "expected"),
    [
        ("/run/ffloop/instance.sock", 0, "/run/ffloop/instance.sock"),
        ("/run/ffloop/instance.sock", 2, "/run/ffloop/instance-2.sock"),
        ("/run/v1.2/instance", 1, "/run/v1.2/instance-1"),
        ("@name", 1, "@name-1"),
    ],
)
def test_socket_of_the_nth_instance(path, index, expected):
    assert choice.nth(path, index) == expected


def test_the_ith_worker_attaches_to_the_ith_instance(tmp_path):
    """FF_PROC_ID picks the first loop's instance, the next loop takes the next one."""
    first = str(tmp_path / "i.sock")
    running = []
    try:
        for proc_id in ("0", "1"):
            path = choice.nth(first, int(proc_id))
            running.append(instances.start(path, "--proc-id", proc_id))
        environ = {
            **os.environ,
            "FFLOOP_INSTANCE": first,
            "FF_NB_FSTACK_INSTANCE": "2",
            "FF_PROC_ID": "1",
        }
        code = (
            "import ffloop\n"
            "for _ in range(3):\n"
            "    loop = ffloop.new_event_loop()\n"
            "    print(loop.instance.pid)\n"
            "    loop.close()\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, check=True
        )
        zero, one = (p.pid for p in running)
        assert [int(pid) for pid in out.stdout.split()] == [one, zero, one]
    finally:
        for process in running:
            process.terminate()
            assert process.wait() == 0
            process.stdout.close()


def test_an_embedded_instance_that_cannot_start():
    with pytest.raises(ffloop.InstanceError, match=r"did not start: .*host or fstack, not 'none'"):
        discovery.start("none")


def test_config_unknown():
    with pytest.raises(TypeError, match=r"unknown option colour: ffloop\.LoopOptions has all"):
        configuration.load({}, colour="blue")
    with pytest.raises(TypeError, match=r"unknown option stak: did you mean stack\?"):
        configuration.load({}, stak="host")
    with pytest.raises(TypeError, match=r"unknown option stacc, stak: did you mean stack\?"):
        configuration.load({}, stacc="host", stak="host")


def test_a_path_that_is_too_long():
    path = "/" + "x" * 200
    with pytest.raises(ffloop.InstanceError, match="File name too long") as caught:
        ffloop.new_event_loop(instance=path)
    assert str(caught.value).count(path) == 1


@pytest.mark.parametrize(
    ("stack", "rules", "family", "address", "expected"),
    [
        ("host", "", socket.AF_INET, ("127.0.0.1", 1), True),
        ("host", "", socket.AF_UNIX, "/x", False),
        ("fstack", "", socket.AF_INET, ("127.0.0.1", 1), False),
        ("fstack", "", socket.AF_INET, ("127.9.9.9", 1), False),
        ("fstack", "", socket.AF_INET6, ("::1", 1, 0, 0), False),
        ("fstack", "", socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), False),
        ("fstack", "", socket.AF_INET6, ("fe80::1%lo", 1, 0, 0), True),
        ("fstack", "", socket.AF_INET, ("10.0.0.1", 1), True),
        ("fstack", "", socket.AF_INET, ("0.0.0.0", 1), True),
        ("fstack", "", socket.AF_INET, ("", 1), True),
        ("fstack", "127.0.0.0/8=stack", socket.AF_INET, ("127.0.0.1", 1), True),
        ("host", "10.0.0.0/8=kernel", socket.AF_INET, ("10.1.1.1", 1), False),
        ("host", "10.1.0.0/16=stack, 10.0.0.0/8=kernel", socket.AF_INET, ("10.1.1.1", 1), True),
        ("host", "::/0=kernel", socket.AF_INET, ("10.1.1.1", 1), True),
    ],
)
def test_routing(stack, rules, family, address, expected):
    assert routing.Router(stack, rules).on_stack(family, address) is expected


@pytest.mark.parametrize(
    "bad", ["10.0.0.0/8", "10.0.0.0/8=moon", "nonsense=stack", "10.0.0.1/8=stack"]
)
def test_routing_errors(bad):
    with pytest.raises(ffloop.ConfigError, match="NETWORK"):
        routing.Router("host", bad)


@pytest.mark.parametrize(
    ("family", "given", "back"),
    [
        (socket.AF_INET, ("1.2.3.4", 80), ("1.2.3.4", 80)),
        (socket.AF_INET, ("", 0), ("0.0.0.0", 0)),
        (socket.AF_INET, ("<broadcast>", 9), ("255.255.255.255", 9)),
        (socket.AF_INET, ("localhost", 9), ("127.0.0.1", 9)),
        (socket.AF_INET6, ("::1", 80), ("::1", 80, 0, 0)),
        (socket.AF_INET6, ("fe80::1", 65535, 5, 3), ("fe80::1", 65535, 5, 3)),
        (socket.AF_INET6, ("fe80::1%lo", 1), ("fe80::1", 1, 0, socket.if_nametoindex("lo"))),
    ],
)
def test_addresses(family, given, back):
    raw = address.encode(family, given)
    assert len(raw) == address.ADDR_SIZE
    assert address.decode(raw) == back


def test_a_name_asks_nobody_in_the_loop(monkeypatch):
    def asked(*_):
        raise AssertionError("it may wait")

    monkeypatch.setattr(address.socket, "getaddrinfo", asked)
    assert address.look_up_literal("localhost", 80, 0, 0, 0, 0) is None
    with pytest.raises(AssertionError, match="it may wait"):
        address.look_up_literal("127.1", 80, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("family", "given", "error"),
    [
        (socket.AF_INET, "1.2.3.4", TypeError),
        (socket.AF_INET, ("1.2.3.4",), TypeError),
        (socket.AF_INET, ("1.2.3.4", 1, 2), TypeError),
        (socket.AF_INET, ("1.2.3.4", "80"), TypeError),
        (socket.AF_INET, (5, 80), TypeError),
        (socket.AF_INET, ("1.2.3.4", 65536), OverflowError),
        (socket.AF_INET6, ("::1", -1), OverflowError),
        (socket.AF_INET6, ("::1", 1, 2**20, 0), OverflowError),
    ],
)
def test_bad_addresses(family, given, error):
    with pytest.raises(error):
        address.encode(family, given)


def test_no_address():
    assert address.decode(bytes(28)) is None


@pytest.mark.parametrize("code", [*errors._ATTACH, errno.ETIMEDOUT])
def test_attach_errors_say_what_to_do(code):
    exc = errors.attach_error(code, "/path", "the reason")
    assert isinstance(exc, ffloop.InstanceError)
    assert isinstance(exc, OSError)
    assert exc.errno == code
    assert "/path" in str(exc)
    assert "the reason" in str(exc)


def test_gone_is_a_connection_reset():
    exc = errors.gone("the instance ended")
    assert isinstance(exc, ConnectionResetError)
    assert isinstance(exc, ffloop.InstanceError)
    assert exc.errno == errno.ECONNRESET


def test_every_public_name_is_there():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ffloop.__all__:
            assert getattr(ffloop, name) is not None
    with pytest.raises(AttributeError):
        ffloop.nothing  # noqa: B018


def test_import_attaches_nothing_and_warns_of_nothing():
    code = "import ffloop, sys; assert 'ffloop._loop.policy' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", code], check=True)


def test_instance_outside_a_loop():
    with pytest.raises(RuntimeError):
        ffloop.instance()


def test_the_types_of_options_are_the_tables():
    """LoopOptions, for type checkers, and the command line's choices."""
    of_loops = {one.argument for one in configuration.SETTINGS.values() if one.argument}
    assert of_loops == LoopOptions.__annotations__.keys()
    words = {one.argument: one.words for one in configuration.SETTINGS.values()}
    assert (words["stack"], words["kernel_sockets"]) == (STACKS, KERNEL_SOCKETS)


def test_the_stub_is_the_compiled_part():
    """ffloop/_native/_hot.pyi: the same classes, with the same names in each."""
    stub = ast.parse((native.NATIVE / "_hot.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    compiled = {k: v for k, v in vars(hot._hot).items() if isinstance(v, type)}
    assert classes.keys() == compiled.keys()
    for name, node in classes.items():
        named = {getattr(one, "name", None) or one.target.id for one in node.body if names(one)}
        real = {one for one in vars(compiled[name]) if not one.startswith("__")}
        assert {one for one in named if not one.startswith("__")} == real, name


def names(node):
    return isinstance(node, ast.FunctionDef | ast.AnnAssign)


@pytest.mark.parametrize(
    "public", [ffloop.Loop, ffloop.socket, ffloop.Kqueue, ffloop.kevent, ffloop.FFSelector]
)
def test_public_methods_say_what_they_do(public):
    own = [one for one in public.__mro__ if one.__module__.startswith("ffloop.")]
    for name in {name for one in own for name in vars(one) if not name.startswith("_")}:
        found = getattr(public, name)
        if callable(found) or isinstance(found, property):
            assert inspect.getdoc(found), name


def test_cli_runs_the_executable(monkeypatch):
    seen = []
    monkeypatch.setattr("os.execv", lambda path, argv: seen.append((path, argv)))
    main.main(["instance", "--stack", "host", "--socket", "/x"])
    ((path, argv),) = seen
    assert path.endswith("ffloop-instance")
    assert argv == [path, "--stack", "host", "--socket", "/x"]


def test_cli_without_the_executable(monkeypatch, capsys):
    monkeypatch.setenv("FFLOOP_INSTANCE_EXECUTABLE", "/nowhere")
    assert main.main(["instance"]) == 1
    assert "reinstall" in capsys.readouterr().err


def test_cli_usage(capsys):
    with pytest.raises(SystemExit):
        main.main([])
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["stat", "--bogus"], "ffloop stat: error: unrecognized arguments: --bogus"),
        (["stat", "--sockets", "-1"], "a whole number, 0 or more, not '-1'"),
        (["stat", "--metrics", "70000"], "a whole number, from 0 to 65535, not '70000'"),
        (["stat", "--instance", ""], "a socket's path or a pid"),
        (["top", "--interval", "inf"], "seconds, more than 0, up to 3600, not 'inf'"),
        (["top", "--interval", "soon"], "seconds, more than 0, up to 3600, not 'soon'"),
        (["top", "--count", "0"], "a whole number, 1 or more, not '0'"),
        (["doctor", "--stack", "sim"], "invalid choice: 'sim'"),
        (["bench", "--rounds", "none"], "a whole number, 1 or more, not 'none'"),
        (["preload"], "which PROGRAM?"),
        (["run"], "which SCRIPT.py, MODULE:APP or -m MODULE?"),
    ],
)
def test_cli_mistakes(capsys, argv, words):
    """Exit status 2, the usage of that command, and what was wrong."""
    with pytest.raises(SystemExit) as end:
        main.main(argv)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith(f"usage: ffloop {argv[0] if argv[0] != 'nonsense' else '[-h]'}")


def test_a_tree_without_its_compiled_part(tmp_path):
    """As a newcomer meets it who starts Python in the checkout."""
    shutil.copytree(
        os.path.dirname(ffloop.__file__),
        tmp_path / "ffloop",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import ffloop; ffloop.Loop"
    done = completed(sys.executable, "-P", "-c", code)
    assert done.returncode == 1
    assert f"{tmp_path / 'ffloop'} has no compiled part. If it is ffloop's source" in done.stderr


def test_cli_version(capsys):
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out == f"ffloop {importlib.metadata.version('ffloop')}\n"


def test_cli_into_a_pipe_that_is_closed():
    """`ffloop stat | head` ends without a word."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from ffloop._cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "preload", "--libs"], stdout=write, stderr=-1
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
