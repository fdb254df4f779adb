"""`ffloop doctor` on machines that are made of a few files."""

import json
import os
import subprocess
import sys

import pytest

from ffloop._cli import doctor, main
from ffloop._session import discovery
from ffloop._session.binding import KernelCall
from ffloop.errors import InstanceNotFound

GOOD = {
    "/proc/meminfo": "MemAvailable: 8000000 kB\nHugePages_Free: 512\nHugepagesize: 2048 kB\n",
    "/proc/mounts": "nodev /dev/hugepages hugetlbfs rw 0 0\n",
    "/proc/self/status": "CapEff:\t000001ffffffffff\n",
    "/proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
    "/sys/devices/system/node/node0/cpulist": "0-7\n",
    "/sys/kernel/iommu_groups/0/type": "DMA\n",
    "/sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n",
    "/sys/bus/pci/devices/0000:01:00.0/driver": "->../../../bus/pci/drivers/vfio-pci",
    "/sys/bus/pci/devices/0000:02:00.0/class": "0x010802\n",
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a Machine: GOOD, with some files changed (None: not there)."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def make(changed=None):
        for path, text in (GOOD | (changed or {})).items():
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                place.unlink(missing_ok=True)
            elif text.startswith("->"):
                place.unlink(missing_ok=True)
                place.symlink_to(text[2:])
            else:
                place.write_text(text)
        return doctor.Machine(str(tmp_path))

    return make


def one(findings):
    [finding] = findings
    return finding


def levels(findings):
    return [finding.level for finding in findings]


def test_a_good_machine(machine):
    checks = (doctor.cores, doctor.memory, doctor.privilege, doctor.hugepages)
    for check in (*checks, doctor.devices, doctor.spare_core, doctor.kernel, doctor.proc):
        found = list(check(machine()))
        assert set(levels(found)) == {"ok"}, found
        assert not any(finding.mend for finding in found)


@pytest.mark.parametrize(
    ("check", "changed", "expected", "word"),
    [
        (
            doctor.hugepages,
            {"/proc/meminfo": "HugePages_Free: 10\nHugepagesize: 2048 kB\n"},
            ["fail", "ok"],
            "sysctl -w vm.nr_hugepages=512",
        ),
        (doctor.hugepages, {"/proc/mounts": ""}, ["ok", "fail"], "mount -t hugetlbfs"),
        (doctor.privilege, {"/proc/self/status": "CapEff:\t0\n"}, ["warn"], "as root"),
        (doctor.privilege, {"/proc/self/status": None}, ["warn"], "as root"),
        (
            doctor.devices,
            {"/sys/bus/pci/devices/0000:01:00.0/driver": "->../drivers/ixgbe"},
            ["note"],
            "dpdk-devbind.py",
        ),
        (doctor.memory, {"/sys/fs/cgroup/memory.max": "60000000\n"}, ["warn"], "POOL_KIB"),
        (doctor.memory, {"/sys/fs/cgroup/memory.max": "max\n"}, ["ok"], ""),
        (doctor.cores, {"/sys/devices/system/node/node1/cpulist": "8-15"}, ["note"], "numactl"),
    ],
)
def test_what_is_lacking_is_told_with_a_mend(machine, check, changed, expected, word):
    found = list(check(machine(changed)))
    assert levels(found) == expected
    assert word in " ".join(finding.mend for finding in found)
    assert all(bool(f.mend) == (f.level != "ok") for f in found)


def test_vfio_without_iommu(machine, tmp_path):
    made = machine({"/sys/kernel/iommu_groups/0/type": None})
    (tmp_path / "sys/kernel/iommu_groups/0").rmdir()
    assert levels(doctor.devices(made)) == ["ok", "warn"]


def test_one_core(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert one(doctor.cores(machine())).level == "note"
    assert one(doctor.spare_core(machine())).level == "warn"


def test_a_check_that_fails_is_a_finding(machine, monkeypatch):
    def denied(*args):
        raise PermissionError(13, "memfd_create: Operation not permitted")

    monkeypatch.setattr(doctor.discovery, "start", denied)
    monkeypatch.setattr(doctor, "CHECKS", [doctor.trial, doctor.cores])
    found = {finding.what: finding for finding in doctor.examine(machine())}
    assert found["trial"].level == "fail"
    assert "memfd_create" in found["trial"].found
    assert found["cores"].level == "ok"


def test_no_proc(machine):
    found = one(doctor.proc(machine({"/proc/self/status": None})))
    assert found.level == "fail"
    assert "mount -t proc" in found.mend


def test_a_limit_of_files(machine, monkeypatch):
    """Shared memory counts as one."""
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (0, 0))
    found = one(doctor.file_size(machine()))
    assert found.level == "fail"
    assert "ulimit -f unlimited" in found.mend


@pytest.mark.parametrize(("libc", "level"), [(("glibc", "2.36"), "ok"), (("", ""), "warn")])
def test_another_libc(machine, monkeypatch, libc, level):
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: libc)
    assert one(doctor.versions(machine())).level == level


def test_few_descriptors(machine, monkeypatch):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (1024, 524288))
    found = one(doctor.descriptors(machine()))
    assert found.level == "warn"
    assert "ulimit -n 65536" in found.mend


@pytest.mark.parametrize(
    ("without", "level", "words"), [("", "fail", []), ("it is slow", "note", ["it is slow"])]
)
def test_a_kernel_without_a_call(machine, monkeypatch, without, level, words):
    calls = [KernelCall("one", "", ""), KernelCall("two", without, "Operation not permitted")]
    monkeypatch.setattr(doctor, "kernel_calls", lambda: calls)
    found = one(doctor.kernel(machine()))
    assert found.level == level
    for word in ("two (Operation not permitted)", *words):
        assert word in found.found
    assert "seccomp" in found.mend


def test_a_directory_that_others_may_write(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "ffloop").mkdir()
    (tmp_path / "ffloop").chmod(0o777)
    assert "usual place" in [f.what for f in doctor.place(machine()) if f.level == "warn"]
    (tmp_path / "ffloop").chmod(0o755)
    assert "usual place" not in [f.what for f in doctor.place(machine())]


def test_an_instance_that_is_named_and_not_there(machine, monkeypatch):
    monkeypatch.setenv("FFLOOP_INSTANCE", "/nowhere/x.sock")
    [found] = [f for f in doctor.place(machine()) if f.level == "warn" and "nowhere" in f.found]
    assert "ffloop instance --socket /nowhere/x.sock" in found.mend


@pytest.mark.parametrize("word", ["direct", "spawn"])
def test_a_word_is_no_place(machine, monkeypatch, word):
    monkeypatch.setenv("FFLOOP_INSTANCE", word)
    assert not [f for f in doctor.place(machine()) if word in f.found]


def test_a_named_place_that_others_may_write(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("FFLOOP_INSTANCE", str(tmp_path / "x.sock"))
    tmp_path.chmod(0o777)
    assert "place" in [f.what for f in doctor.place(machine()) if str(tmp_path) in f.found]


def test_the_executable(machine, monkeypatch):
    found = {finding.what: finding for finding in doctor.built(machine())}
    assert found["executable"].level == "ok"
    fstack = found["ffloop-fstack"]
    assert fstack.level == ("fail" if "pip install ffloop-fstack" in fstack.mend else "ok")

    def missing():
        raise InstanceNotFound(2, "ffloop-instance is missing")

    monkeypatch.setattr(discovery, "executable", missing)
    assert one(doctor.built(machine())).level == "fail"


@pytest.fixture
def executable(monkeypatch, tmp_path):
    """Puts one in the instance's place that says this of its stacks."""

    def make(stacks):
        path = tmp_path / "ffloop-instance"
        path.write_text(f"#!/bin/sh\ncat <<.\nffloop-instance 1.0\n{stacks}\n.\n")
        path.chmod(0o755)
        monkeypatch.setattr(discovery, "executable", lambda: str(path))

    return make


def test_the_versions_of_fstack(machine, executable):
    executable("stacks: host, fstack (F-Stack 1.25, DPDK 23.11.5)")
    *_, found = doctor.built(machine())
    assert (found.level, found.found) == ("ok", "F-Stack 1.25, DPDK 23.11.5")


def test_without_fstack(machine, executable):
    """What the instance says of it: what is so, and after the last colon what mends it."""
    executable("stacks: host\nno fstack: it cannot be (x.so: no such file): install fstack (page)")
    *_, found = doctor.built(machine())
    assert (found.level, found.mend) == ("fail", "install fstack (page)")
    assert found.found == "it cannot be (x.so: no such file)"


def test_the_trial(machine, monkeypatch):
    assert one(doctor.trial(machine())).level == "ok"

    def broken(stack):
        raise InstanceNotFound(2, "it did not start")

    monkeypatch.setattr(discovery, "start", broken)
    found = one(doctor.trial(machine()))
    assert (found.level, found.found) == ("fail", "it did not start")


def test_the_command(capsys, monkeypatch):
    assert main.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f["stack"] for f in found} == {"all", "host", "fstack"}
    assert {f["level"] for f in found} <= {"ok", "note", "warn", "fail"}
    broken = doctor.Finding("fstack", "x", "fail", "[lacking]", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda machine: [broken])
    assert main.main(["doctor"]) == 0
    assert main.main(["doctor", "--stack", "fstack"]) == 1
    out = capsys.readouterr().out
    assert "[lacking]" in out
    assert "mend it" in out


def test_applications_do_not_import_rich():
    code = "import sys, ffloop; ffloop.new_event_loop().close(); assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
