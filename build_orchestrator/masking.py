"""Keeping secrets out of everything that is written down or shown.                       (pure)

A secret is hidden as it is, and in the forms in which tools print it again: each line of a secret
that has several, base64 (plain and URL-safe, wrapped, and inside a longer text that was encoded
together with it, such as ``user:password``), URL-encoded, JSON-escaped and quoted for a shell.
Overlapping finds are hidden as one, so that no piece of the second shows. Of a secret that holds
addresses with credentials, each address is hidden by itself, and so are user, password and what a
query says.

A value shorter than four characters is refused: hiding it would hide half of every log and give the
value away by where the stars stand. An empty value hides nothing. A line of a longer secret that is
shorter than four characters, such as ``}``, stays visible by itself.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from build_orchestrator.errors import UsageError

MASK = "***"
SHORTEST = 4
"""Characters. What is shorter is no secret and cannot be hidden."""

WRAPS = (76, 64)
"""Columns after which common tools break base64 into lines."""


class Masker:
    """Replaces secrets in text with ``***``. Stateless: give it line by line, from any thread.

    Raises:
        UsageError: a secret has fewer than four characters.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if not secret:
                continue
            if len(secret.strip()) < SHORTEST:
                raise UsageError(
                    f"a secret has fewer than {SHORTEST} characters, so it cannot be masked",
                    resolution="Use a longer value, or pass it as plain environment.",
                )
            for part in (secret, *_addresses(secret)):
                forms.update(form for form in _forms(part) if len(form) >= SHORTEST)
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def mask(self, text: str) -> str:
        """The text with every form of every secret replaced."""
        spans = sorted(span for form in self._forms for span in _finds(text, form))
        if not spans:
            return text
        pieces: list[str] = []
        shown_from = 0
        start, end = spans[0]
        for next_start, next_end in spans[1:]:
            if next_start <= end:
                end = max(end, next_end)
                continue
            pieces += (text[shown_from:start], MASK)
            shown_from, start, end = end, next_start, next_end
        pieces += (text[shown_from:start], MASK, text[end:])
        return "".join(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address taken apart."""

    bare: str
    """The address without its credentials."""
    credentials: str = ""
    """``user:password`` or a token, as it was written; empty where there is none."""
    secrets: tuple[str, ...] = ()
    """What to hide: the credentials, and the password alone, as written and decoded."""


def credentials_in(url: str) -> Address:
    """Split ``http://user:password@host/`` into the address and its credentials.

    ``user:password@host:3128`` without a scheme, as proxies are written, is understood too. A
    password shorter than four characters is hidden only together with its user.
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    end = min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))
    credentials, at, host = rest[:end].rpartition("@")
    if not at:
        return Address(bare=url)
    user, _, password = credentials.partition(":")
    password = password or user  # A token may stand where the user does.
    alone = (word for word in (password, unquote(password)) if len(word) >= SHORTEST)
    hidden = (credentials, unquote(credentials), *alone)
    return Address(
        bare=f"{scheme}{separator}{host}{rest[end:]}",
        credentials=credentials,
        secrets=tuple(dict.fromkeys(word for word in hidden if word)),
    )


_BARE_ADDRESS = re.compile(r"([^\s:@/]+:\S+@[\w.\[\]:-]+|\S+@[\w.\[\]-]+:[0-9]+)(/\S*)?")
"""``user:password@host`` and ``token@host:3128``; ``p@ss`` is only a password."""


def shown(address: str) -> str:
    """An address without what its query says, which may be a token."""
    bare, mark, _ = address.partition("?")
    return f"{bare}?{MASK}" if mark and "://" in bare else address


def _addresses(secret: str) -> Iterator[str]:
    """What else to hide of a secret that holds addresses with credentials, as proxies and package
    indexes are written."""
    for word in secret.split():
        if "://" in word or _BARE_ADDRESS.fullmatch(word):
            address = credentials_in(word)
            if address.secrets:
                yield from (word, word.rstrip("/"), *address.secrets)
            if query := word.partition("?")[2]:
                yield from (word, query, *(value for _, value in parse_qsl(query)))


def _finds(text: str, form: str) -> Iterator[tuple[int, int]]:
    """Where a form stands in the text, overlapping finds included."""
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + 1)


def _forms(secret: str) -> Iterator[str]:
    """Everything that gives a secret away when it is printed."""
    for line in secret.split("\n"):
        yield line.strip()
    for value in {secret, secret.strip()}:
        yield value
        yield from _quoted(value)
        yield from _encoded(value.encode(errors="surrogateescape"))


def _quoted(value: str) -> Iterator[str]:
    for ascii_only in (True, False):
        escaped = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")
    data = value.encode(errors="surrogateescape")
    for url in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield url
        yield _lower_escapes(url)
    yield shlex.quote(value).strip("'")
    yield value.replace("'", "'\\''")


def _lower_escapes(url: str) -> str:
    """``%2F`` as ``%2f``, which some tools write."""
    head, *escapes = url.split("%")
    return "%".join([head, *(escape[:2].lower() + escape[2:] for escape in escapes)])


def _encoded(data: bytes) -> Iterator[str]:
    """Base64 of the value, alone or with something before and after it."""
    whole = base64.b64encode(data).decode()
    texts = {whole}
    for width in WRAPS:
        texts.update(whole[at : at + width] for at in range(0, len(whole), width))
    for before in range(3):
        # Three bytes make four characters. Those that hold bits of a neighbour are unknown.
        text = base64.b64encode(bytes(before) + data).decode()
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        texts.add(text[first:last])
    for text in texts:
        yield text
        yield text.replace("+", "-").replace("/", "_")
