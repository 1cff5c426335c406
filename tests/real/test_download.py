"""Images from a server that is slow, silent, wrong or gone, over a real connection."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, EnvironmentFailure, Interrupted
from build_orchestrator.image import resolve
from build_orchestrator.locks import cache_home
from build_orchestrator.model import ImageSource
from tests.conftest import require

CONTENT = b"no disk at all"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are kept by their content, so that nothing would be fetched twice."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Server(http.server.ThreadingHTTPServer):
    """Serves one file: at once, or a byte a second, or not one byte."""

    daemon_threads = True
    block_on_close = False
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked += 1
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/whole":
                self.wfile.write(CONTENT)
                return
            for byte in CONTENT * 10:
                time.sleep(1)
                if self.path == "/dripping":
                    self.wfile.write(bytes([byte]))

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def fetch(
    server: Server,
    path: str,
    *,
    limit_s: float = 60,
    cancel: Cancel = NEVER,
    on_line: Callable[[str], None] = lambda _: None,
) -> None:
    address = f"http://127.0.0.1:{server.server_port}{path}"
    source = ImageSource(url=address, sha256=hashlib.sha256(CONTENT).hexdigest())
    resolve(
        source,
        project=Path("/nowhere"),
        deadline=Deadline("image", limit_s),
        cancel=cancel,
        on_line=on_line,
    )


@pytest.mark.parametrize("path", ["/dripping", "/silent"])
def test_a_slow_server_holds_up_neither_deadline_nor_signal(server: Server, path: str) -> None:
    """Whether it says a little or nothing; and nothing half is kept."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="image"):
        fetch(server, path, limit_s=2)
    assert time.monotonic() - began < 20, "far less than the minute that one read may take"
    cancel = Cancel()
    threading.Timer(0.5, cancel.set, args=(2,)).start()
    with pytest.raises(Interrupted):
        fetch(server, path, cancel=cancel)
    assert [each for each in (cache_home() / "images").iterdir() if each.is_dir()] == []


def test_what_is_not_there_is_said(server: Server) -> None:
    """In the words of the server, without a trace."""
    with pytest.raises(EnvironmentFailure, match="could not be fetched") as caught:
        fetch(server, "/gone")
    assert "404" in caught.value.details
    assert "\n" not in caught.value.details


def test_what_stands_behind_the_question_mark_is_not_told(server: Server) -> None:
    """A token reaches the server, and neither the log nor the report."""
    lines: list[str] = []
    with pytest.raises(EnvironmentFailure) as caught:
        fetch(server, "/gone?token=hush", on_line=lines.append)
    assert "/gone?***" in lines[0]
    assert "hush" not in f"{lines} {caught.value}"


def test_what_is_no_disk_is_refused(server: Server) -> None:
    """All of it arrived, as promised, and it is no qcow2 disk."""
    require("qemu-img")
    with pytest.raises(EnvironmentFailure, match="is not a qcow2 disk"):
        fetch(server, "/whole")
