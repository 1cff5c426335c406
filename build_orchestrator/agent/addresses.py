"""Addresses: fetched with the login and the trust that installers would use for them."""

from __future__ import annotations

import base64
import os
import shutil
import ssl
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

TIMEOUT_S = 60


def fetch(address: str, file: Path) -> None:
    """Write what an address answers into a file.

    Raises:
        OSError: it does not answer, refuses, or breaks off.
        ValueError: it is no address.
    """
    trusted = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    asked = request(address)
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S, context=trusted) as answer, file.open(
            "wb"
        ) as copy:
            shutil.copyfileobj(answer, copy)
    except HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def request(address: str) -> urllib.request.Request:
    """For an address without its user and password, which urllib would take for a host's name."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    made = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user:
        login = base64.b64encode(unquote(user).encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {login}")
    return made


def noted(address: str) -> str:
    """An address as installers note where a module is from: no way of fetching, revision or login.

    ``https://host/x.git`` for ``git+https://me:secret@host/x.git@1.0#egg=x``.
    """
    parts = urlsplit(address)
    way, _, scheme = parts.scheme.rpartition("+")
    path = parts.path.rpartition("@")[0] or parts.path if way else parts.path
    host = parts.netloc.rpartition("@")[2].lower()
    return parts._replace(scheme=scheme, netloc=host, path=unquote(path), fragment="").geturl()
