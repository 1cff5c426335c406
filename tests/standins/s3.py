"""An S3 server on loopback: moto's, as a process of its own, made as strict as S3 or less.

``python -m tests.standins.s3`` prints its address and serves until its standard input closes, so
it cannot outlive whoever started it. moto checks neither signatures nor checksums, and its
check for ``If-None-Match: *`` is not atomic; here requests are handled one at a time, as if it
were. The name of a bucket makes the server misbehave:

=============  =====================================================================
``careless-``  ignores conditions, as some servers do
``damaging-``  stores the last byte of an object wrong, and says 200
``busy-``      answers the first PUT of each key with 409 ConditionalRequestConflict
``blind-``     answers HEAD with 404 unless a PUT came right before it: a key that
               somebody else puts between our looking and our putting
``lossy-``     stores each object, and answers 500 to its first PUT
``closed-``    answers everything with 403, without a message
=============  =====================================================================
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

Environ = dict[str, Any]
Reply = Iterable[bytes]
Application = Callable[[Environ, Callable[..., Any]], Reply]

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message/></Error>"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that lives as long as the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.standins.s3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline())["endpoint"]
    finally:
        child.stdin.close()
        child.kill()  # Nothing of it is worth a goodbye, for which a busy host may take long.
        child.wait()
        child.stdout.close()


class Strict:
    """One request at a time, whole bodies only, and the misbehaviour that a bucket asks for."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._last: dict[str, str] = {}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Reply:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = _read(environ["wsgi.input"], length)
        if len(body) < length:
            return _refuse(start_response, "400 Bad Request", "IncompleteBody")
        with self._lock:
            return self._serve(environ, start_response, body)

    def _serve(self, environ: Environ, start_response: Callable[..., Any], body: bytes) -> Reply:
        path = environ["PATH_INFO"]
        putting = environ["REQUEST_METHOD"] == "PUT" and path.strip("/").count("/") > 0
        first = putting and path not in self._seen
        if putting:
            self._seen.add(path)
        last, self._last[path] = self._last.get(path), environ["REQUEST_METHOD"]
        if path.startswith("/blind-") and environ["REQUEST_METHOD"] == "HEAD" and last != "PUT":
            return _refuse(start_response, "404 Not Found", "NoSuchKey")
        if path.startswith("/closed-"):
            return _refuse(start_response, "403 Forbidden", "AccessDenied")
        if path.startswith("/busy-") and first:
            return _refuse(start_response, "409 Conflict", "ConditionalRequestConflict")
        if path.startswith("/careless-"):
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if path.startswith("/damaging-") and putting:
            body = body[:-1] + bytes([body[-1] ^ 1])
        environ["wsgi.input"] = io.BytesIO(body)
        if path.startswith("/lossy-") and first:
            list(self._application(environ, lambda *_: None))
            return _refuse(start_response, "500 Internal Server Error", "InternalError")
        return list(self._application(environ, start_response))


def _read(stream: IO[bytes], length: int) -> bytes:
    with contextlib.suppress(Exception):  # The client hung up: what came is not whole.
        return stream.read(length)
    return b""


def _refuse(start_response: Callable[..., Any], status: str, code: str) -> Reply:
    body = ERROR.format(code=code).encode()
    start_response(
        status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    )
    return [body]


def main() -> None:
    """Serve until the standard input closes."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    application = Strict(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
