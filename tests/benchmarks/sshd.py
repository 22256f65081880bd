"""A real sshd on 127.0.0.1 with keys of its own, and a program ``ssh`` that knows it; both need openssh installed."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

INSTALL = "make test-ssh, or: apt-get install openssh-server openssh-client"
SERVER_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
MaxStartups 2
SetEnv HOME={home}
LogLevel VERBOSE
"""
CLIENT_CONFIG = """\
Host *
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class Sshd:
    """A running server.

    Attributes:
        folder: keys, configurations and log.
        home: the home folder of those who log in.
        bin: to go first on the PATH; holds ``ssh``.
    """

    folder: Path
    home: Path
    bin: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def where(self) -> str:
        """What follows ``ssh:`` in the name of the device."""
        return f"127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """The Python processes of open connections."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if "python" in _name(process)]

    def cut(self) -> None:
        """Kill the server's end of every connection, and not what runs in it."""
        for process in self.connections():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def connections(self) -> list[psutil.Process]:
        """The server's processes of open connections; what runs in them aside."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if _name(process).startswith("sshd")]

    def stop(self) -> None:
        """End the server and its connections. May be called again."""
        if self.process.poll() is None:
            self.cut()
            self.process.kill()
            self.process.wait()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def serve(folder: Path) -> Sshd:
    """Start a server in a new folder, as the user who runs the tests."""
    server = shutil.which("sshd") or "/usr/sbin/sshd"
    client = shutil.which("ssh")
    assert Path(server).is_file(), f"these tests need sshd: {INSTALL}"
    assert client, f"these tests need ssh: {INSTALL}"
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to run as root without it
    (folder / "home").mkdir(parents=True)
    (folder / "bin").mkdir()
    for key in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    port = free_port()
    values = {"folder": folder, "home": folder / "home", "port": port}
    (folder / "sshd_config").write_text(SERVER_CONFIG.format(**values))
    (folder / "ssh_config").write_text(CLIENT_CONFIG.format(**values))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    write_script(folder / "bin" / "ssh", f'exec {client} -F {folder}/ssh_config "$@"')
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    for _ in range(200):
        assert process.poll() is None, (folder / "sshd.log").read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Sshd(folder, folder / "home", folder / "bin", port, process)
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")


def write_script(path: Path, body: str) -> None:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def free_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
