"""Servers of Debian that fork for a connection (debian.py)."""

import ftplib
import getpass
import io
import os
import shutil
import smtplib
import socket
import subprocess
from pathlib import Path
from typing import Any

from debian import HERE, Server, as_root, at_once, same
from programs import children, need, until
from shim import Instance


def test_git_daemon(instance: Instance, tmp_path: Path) -> None:
    """Its helpers talk through standard input and output. Clones, several at once."""
    git = need("git")
    made = tmp_path / "made"
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([git, "init", "-q", made], check=True)
    (made / "file").write_bytes(os.urandom(300000))
    subprocess.run([git, "-C", made, "add", "."], check=True)
    subprocess.run([git, *who, "-C", made, "commit", "-qm", "one"], check=True)
    rounds = iter(range(10))

    def talk(server: Server) -> Any:
        folder = tmp_path / f"round{next(rounds)}"

        def clone(i: int) -> bool:
            to = folder / str(i)
            where = f"git://{HERE}:{server.port}/made"
            server.client(git, "clone", "-q", where, str(to), check=True)
            return (to / "file").read_bytes() == (made / "file").read_bytes()

        return at_once(4, clone)

    def command(port: int) -> list[str]:
        words = [git, "daemon", f"--port={port}", f"--listen={HERE}", "--reuseaddr"]
        return [*words, "--export-all", f"--base-path={tmp_path}"]

    same(instance, tmp_path / "log", command, talk)


def test_rsync_daemon(instance: Instance, tmp_path: Path) -> None:
    rsync = need("rsync")
    source = tmp_path / "source"
    source.mkdir()
    for i in range(20):
        (source / str(i)).write_bytes(os.urandom(20000))
    rounds = iter(range(10))

    def talk(server: Server) -> Any:
        to = tmp_path / f"round{next(rounds)}"
        where = f"rsync://{HERE}:{server.port}/files/"
        server.client(rsync, "-a", where, str(to), check=True)
        return [(to / p.name).read_bytes() == p.read_bytes() for p in sorted(source.iterdir())]

    def command(port: int) -> list[str]:
        conf = tmp_path / "rsyncd.conf"
        conf.write_text(f"use chroot = no\nuid = root\ngid = root\n[files]\npath = {source}\n")
        words = [rsync, "--daemon", "--no-detach", f"--config={conf}", f"--address={HERE}"]
        return [*words, f"--port={port}"]

    same(instance, tmp_path / "log", command, talk)


def test_xinetd(instance: Instance, tmp_path: Path) -> None:
    """A service per connection, which has it as standard input and output."""
    xinetd, sed = need("xinetd"), need("sed")

    def talk(server: Server) -> Any:
        seen = []
        for word in (b"banana\n", b"salad\n"):
            with server.connect() as peer:
                peer.sendall(word)
                peer.shutdown(socket.SHUT_WR)
                seen.append(peer.makefile("rb").read())
        until(lambda: not children(server.pid))
        return seen

    def command(port: int) -> list[str]:
        conf = tmp_path / "xinetd.conf"
        conf.write_text(
            "defaults\n{\n}\nservice upper\n{\ntype = UNLISTED\nsocket_type = stream\nwait = no\n"
            f"protocol = tcp\nport = {port}\nbind = {HERE}\nuser = {getpass.getuser()}\n"
            f"server = {sed}\nserver_args = -u s/a/A/\n}}\n"
        )
        return [xinetd, "-dontfork", "-f", str(conf), "-pidfile", str(tmp_path / "pid")]

    same(instance, tmp_path / "log", command, talk)


@as_root
def test_vsftpd(tmp_path: Path, shared_folder: Path) -> None:
    """A process of root and one of another user for each client; files up and down, both ways."""
    vsftpd = need("vsftpd")
    upload = shared_folder / "files" / "upload"
    upload.mkdir(parents=True)
    upload.chmod(0o777)
    empty = shared_folder / "empty"
    empty.mkdir()

    def talk(server: Server) -> Any:
        def client(number: int) -> Any:
            content = b"%d" % number * 100000
            down = io.BytesIO()
            with ftplib.FTP() as ftp:
                ftp.connect(HERE, server.port)
                ftp.login()
                ftp.set_pasv(number % 2 == 0)
                name = f"upload/{server.port}.{number}"
                stored = ftp.storbinary(f"STOR {name}", io.BytesIO(content))
                ftp.retrbinary(f"RETR {name}", down.write)
                return stored, down.getvalue() == content, ftp.quit()

        return at_once(4, client)

    def command(port: int) -> list[str]:
        conf = shared_folder / "vsftpd.conf"
        conf.write_text(
            f"listen=YES\nlisten_address={HERE}\nlisten_port={port}\nbackground=NO\n"
            f"anonymous_enable=YES\nno_anon_password=YES\nanon_root={upload.parent}\n"
            "anon_upload_enable=YES\nwrite_enable=YES\nanon_umask=022\n"
            f"secure_chroot_dir={empty}\nseccomp_sandbox=NO\n"
        )
        return [vsftpd, str(conf)]

    same(None, tmp_path / "log", command, talk)


@as_root
def test_exim(tmp_path: Path, shared_folder: Path) -> None:
    """Mail from several clients at once ends in the queue, whole."""
    exim = need("exim4")
    shutil.chown(shared_folder, "Debian-exim")

    def talk(server: Server) -> Any:
        def client(number: int) -> Any:
            with smtplib.SMTP(HERE, server.port) as smtp:
                return smtp.sendmail("a@x.test", ["b@y.test"], f"\n{number}" + "\nline" * 30000)

        seen = at_once(4, client)
        mails = list((shared_folder / str(server.port) / "input").glob("*-D"))
        return seen, sorted(p.stat().st_size for p in mails)

    def command(port: int) -> list[str]:
        conf = shared_folder / "exim.conf"
        conf.write_text(
            f"spool_directory = {shared_folder}/{port}\nlog_file_path = {shared_folder}/log-%s\n"
            f"local_interfaces = {HERE}.{port}\nprimary_hostname = x.test\nqueue_only = true\n"
            "acl_smtp_rcpt = accept\nacl_smtp_data = accept\nhost_lookup =\ntls_advertise_hosts =\n"
            "rfc1413_hosts =\nkeep_environment =\nbegin acl\naccept:\n accept\n"
        )
        return [exim, "-C", str(conf), "-bdf", "-q1h"]

    same(None, tmp_path / "log", command, talk)


@as_root
def test_ssh(tmp_path: Path) -> None:
    """Commands with much input, several clients at once. Whom the server does not know yet talks to
    a process that has forbidden itself most system calls."""
    sshd, ssh, keygen = need("sshd"), need("ssh"), need("ssh-keygen")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    text = "some text\n" * 30000

    def command(port: int) -> list[str]:
        conf = tmp_path / "sshd.conf"
        conf.write_text(
            f"ListenAddress {HERE}:{port}\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
        )
        return [sshd, "-D", "-e", "-f", str(conf)]

    def talk(server: Server) -> Any:
        words = [ssh, "-F", "none", "-p", str(server.port), "-i", str(tmp_path / "user"), "-q"]
        for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"):
            words += ["-o", option]

        def client(number: int) -> Any:
            done = server.client(*words, HERE, f"cat; exit {number}", input=text)
            return done.returncode, done.stdout == text, done.stderr

        return at_once(4, client)

    same(None, tmp_path / "log", command, talk)
