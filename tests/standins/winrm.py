"""A WinRM service over HTTPS whose commands run in Wine's cmd, as far as pywinrm asks for it.

What is real: TLS with a certificate of its own, HTTP, a password, the messages of WS-Management
for a remote shell (Create, Command, Send, Receive, Signal, Delete), and that Receive waits for
output and says after a while that there is none. What is not: who says so, and everything that only
Windows would refuse. ``python winrm.py FOLDER HOST PORT`` serves what lies in the folder:
``certificate.pem`` with its key, ``password``, and ``environment.json``, with which Wine runs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

USER = "Administrator"
CERTIFICATE, PASSWORD, SETTINGS = "certificate.pem", "password", "environment.json"
DER = "certificate.der"

SOAP = "{http://www.w3.org/2003/05/soap-envelope}"
ADDRESSING = "{http://schemas.xmlsoap.org/ws/2004/08/addressing}"
WSMAN = "{http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd}"
SHELL = "{http://schemas.microsoft.com/wbem/wsman/1/windows/shell}"
STATE = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState"
NO_OUTPUT, NOT_THERE = 2150858793, 2150858843
"""The codes of Windows for "nothing was said in that time" and "there is no such shell"."""

ANSWER = """<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"
 xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"
 xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
 xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell">
<s:Header><a:RelatesTo>{message}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"""
FAULT = """<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code>
<s:Reason><s:Text xml:lang="en-US">{text}</s:Text></s:Reason><s:Detail>
<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="{code}"/>
</s:Detail></s:Fault>"""


class Fault(Exception):
    """What the service says no with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Command:
    """One command line in Wine's cmd."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self.child = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._said = {"stdout": b"", "stderr": b""}
        self._open = 2
        for name in self._said:
            stream = getattr(self.child, name)
            threading.Thread(target=self._read, args=(name, stream), daemon=True).start()

    def send(self, data: bytes, *, end: bool) -> None:
        """Write to its standard input."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(data)
            self.child.stdin.flush()
            if end:
                self.child.stdin.close()
        except (OSError, ValueError) as error:
            raise Fault(109, "The pipe has been ended.") from error

    def receive(self, limit_s: float) -> tuple[dict[str, bytes], int | None]:
        """What it has said since, and its status once that was all."""
        with self._changed:
            self._changed.wait_for(lambda: any(self._said.values()) or not self._open, limit_s)
            said, self._said = self._said, {"stdout": b"", "stderr": b""}
            if self._open:
                if not any(said.values()):
                    raise Fault(NO_OUTPUT, "The operation timed out.")
                return said, None
        return said, self.child.wait()

    def end(self) -> None:
        """Kill it with what it started, and close what it read from."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        assert self.child.stdin is not None
        with contextlib.suppress(OSError):
            self.child.stdin.close()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                with self._changed:
                    self._said[name] += chunk
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


class Service:
    """The shells of one machine."""

    def __init__(self, folder: Path) -> None:
        known = json.loads((folder / SETTINGS).read_text())
        self.wine: list[str] = known["wine"]
        self.env: dict[str, str] = known["env"]
        self.home = Path(known["home"])
        self.expected = base64.b64encode(f"{USER}:{(folder / PASSWORD).read_text()}".encode())
        self.shells: dict[str, dict[str, Command]] = {}
        """By shell, then by command. One that was forgotten here is a shell that stays open."""

    def answer(self, asked: ET.Element) -> str:
        """The body that answers an envelope."""
        header, body = _in(asked, f"{SOAP}Header"), _in(asked, f"{SOAP}Body")
        action = _text(header, f"{ADDRESSING}Action").rpartition("/")[2]
        if action == "Create":
            name = str(uuid.uuid4()).upper()
            self.shells[name] = {}
            return f'<w:Selector Name="ShellId">{name}</w:Selector>'
        shell = _text(header, f"{WSMAN}SelectorSet/{WSMAN}Selector")
        if shell not in self.shells:
            raise Fault(NOT_THERE, "There is no such shell.")
        commands = self.shells[shell]
        if action == "Command":
            options = {each.get("Name"): each.text for each in header.iter(f"{WSMAN}Option")}
            if options.get("WINRS_CONSOLEMODE_STDIN") != "FALSE":
                raise Fault(87, "A console is not what this stands in for.")
            line = _text(body, f"{SHELL}CommandLine/{SHELL}Command")
            name = str(uuid.uuid4()).upper()
            commands[name] = Command(self._argv(line), self.env, self.home)
            return (
                f"<rsp:CommandResponse><rsp:CommandId>{name}</rsp:CommandId></rsp:CommandResponse>"
            )
        if action == "Delete":
            for command in self.shells.pop(shell).values():
                command.end()
            return ""
        return self._of_command(action, commands, header, body)

    def _argv(self, line: str) -> list[str]:
        # As words: Wine would quote one that holds a space, and cmd sees them as one line.
        words = line.split()
        if line.startswith("findstr . >"):  # What plays findstr elsewhere shows it by the page.
            _, _, file, _, *rest = words
            keep = ["sh", "-c", 'cat >"$1"; shift; exec "$@"', "sh", file.removeprefix(">")]
            return [*keep, *self.wine, *rest]
        return [*self.wine, *words]

    def _of_command(
        self, action: str, commands: dict[str, Command], header: ET.Element, body: ET.Element
    ) -> str:
        (element,) = body
        stream = element.find("./*")
        name = element.get("CommandId") or (stream.get("CommandId") if stream is not None else "")
        command = commands[name or ""]
        if action == "Send":
            assert stream is not None
            data = base64.b64decode(stream.text or "")
            command.send(data, end=stream.get("End") == "true")
            return "<rsp:SendResponse/>"
        if action == "Signal":
            command.end()
            return "<rsp:SignalResponse/>"
        assert action == "Receive", action
        limit = _text(header, f"{WSMAN}OperationTimeout")
        said, status = command.receive(float(limit.removeprefix("PT").removesuffix("S")))
        streams = "".join(
            f'<rsp:Stream Name="{each}" CommandId="{name}">{base64.b64encode(data).decode()}'
            "</rsp:Stream>"
            for each, data in said.items()
            if data
        )
        state = "Running" if status is None else "Done"
        code = "" if status is None else f"<rsp:ExitCode>{status}</rsp:ExitCode>"
        return (
            f"<rsp:ReceiveResponse>{streams}"
            f'<rsp:CommandState CommandId="{name}" State="{STATE}/{state}">{code}'
            "</rsp:CommandState></rsp:ReceiveResponse>"
        )


def _in(element: ET.Element, path: str) -> ET.Element:
    found = element.find(path)
    assert found is not None, path
    return found


def _text(element: ET.Element, path: str) -> str:
    return _in(element, path).text or ""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    service: Service

    def do_POST(self) -> None:
        self.server.requests += 1  # type: ignore[attr-defined]
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind, _, said = self.headers.get("Authorization", "").partition(" ")
        if (kind, said.encode()) != ("Basic", self.service.expected):
            self._send(401, b"")
            return
        asked = ET.fromstring(data)
        message = _text(asked, f"{SOAP}Header/{ADDRESSING}MessageID")
        try:
            status, body = 200, self.service.answer(asked)
        except Fault as fault:
            status, body = 500, FAULT.format(text=fault, code=fault.code)
        self._send(status, ANSWER.format(message=message, body=body).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its own name)
        pass


class Server(ThreadingHTTPServer):
    """It proves itself before a request is read, in the thread of the connection."""

    daemon_threads = True
    requests = 0
    """How many were heard, whatever became of them."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.service = Service(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / CERTIFICATE)
        super().__init__((host, port), type("Bound", (Handler,), {"service": self.service}))

    def finish_request(self, request: object, client_address: object) -> None:
        with (
            contextlib.suppress(OSError),  # A client that does not trust us, or goes.
            self._context.wrap_socket(request, server_side=True) as secured,  # type: ignore[arg-type]
        ):
            super().finish_request(secured, client_address)


# --- for tests ----------------------------------------------------------------------------------


def prepare(folder: Path, password: str, wine: list[str], env: dict[str, str], home: Path) -> str:
    """Write what a service needs into a folder; return the SHA-256 of its certificate."""
    import datetime
    import hashlib

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "build-orchestrator")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / CERTIFICATE).write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    der = made.public_bytes(serialization.Encoding.DER)
    (folder / DER).write_bytes(der)
    (folder / PASSWORD).write_text(password)
    (folder / SETTINGS).write_text(json.dumps({"wine": wine, "env": env, "home": str(home)}))
    return hashlib.sha256(der).hexdigest()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A service on a free port of loopback, for as long as the block."""
    with Server(folder, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            for commands in server.service.shells.values():
                for command in commands.values():
                    command.end()


def main() -> None:
    """Serve until the end."""
    folder, host, port = sys.argv[1:]
    Server(Path(folder), host, int(port)).serve_forever()


if __name__ == "__main__":
    main()
