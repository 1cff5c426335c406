"""Secrets stay out of text, in every form in which tools print them."""

from __future__ import annotations

import base64
import json
import re
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_orchestrator.errors import UsageError
from build_orchestrator.masking import MASK, Masker, credentials_in, shown

SECRET = "p@ss /wörd's??>~"

secrets = st.text(
    st.characters(exclude_characters="*", codec="utf-8"), min_size=4, max_size=12
).filter(lambda text: len(text.strip()) >= 4)


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        re.sub("%..", lambda escape: escape[0].lower(), quote(SECRET, safe="")),
        quote(SECRET),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET).replace("/", "\\/")[1:-1],
        shlex.quote(SECRET)[1:-1],
        SECRET.replace("'", "'\\''"),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_hides_each_form(form: str) -> None:
    """A secret disappears as it is and as tools quote, escape and encode it."""
    assert Masker([SECRET]).mask(f"<{form}>") == f"<{MASK}>"


@pytest.mark.parametrize("user", ["", "u:", "ci:", "someone:"])
def test_hides_base64_together_with_other_text(user: str) -> None:
    """The authorization header of ``user:secret`` does not hold enough to read the secret."""
    secret = "correct horse battery"
    header = base64.b64encode(f"{user}{secret}\n".encode()).decode()
    masked = Masker([secret]).mask(f"Authorization: Basic {header}")
    shown = masked.removeprefix("Authorization: Basic ").replace(MASK, "")
    assert MASK in masked
    assert len(shown) <= len(base64.b64encode(user.encode())) + 4


def test_hides_a_secret_of_several_lines_line_by_line() -> None:
    """Each line of a key file is hidden on its own, however it is indented or wrapped."""
    key = "-----BEGIN KEY-----\n" + "\n".join(f"line{n:060d}" for n in range(9)) + "\n}\n"
    masker = Masker([key])
    assert all(masker.mask(f"  {line}\r") == f"  {MASK}\r" for line in key.split("\n")[:-2])
    assert masker.mask("}") == "}"
    assert Masker(["one line\r\n  another line\r\n"]).mask("another line") == MASK
    for line in base64.encodebytes(key.encode()).decode().splitlines():
        assert masker.mask(line) == MASK


def test_overlapping_secrets_leave_no_rest() -> None:
    """Where two secrets overlap or one holds the other, nothing of either stays."""
    masker = Masker(["abcdef", "defghi", "cdef"])
    assert masker.mask("<abcdefghi cdef>") == f"<{MASK} {MASK}>"
    assert Masker(["abcdefgh", "cdef"]).mask("<abcdefgh>") == f"<{MASK}>"
    assert Masker(["ababa"]).mask("<abababa>") == f"<{MASK}>"


@pytest.mark.parametrize("short", ["abc", " a  \n"])
def test_refuses_a_short_secret(short: str) -> None:
    """A value that would hide half of every log is refused, and not repeated in the error."""
    with pytest.raises(UsageError) as caught:
        Masker([short])
    assert short not in str(caught.value)


def test_without_secrets_text_is_untouched() -> None:
    """No secrets and empty ones hide nothing."""
    assert Masker(["", ""]).mask("a * b") == "a * b"


@given(st.lists(secrets, min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=4))
def test_no_secret_survives(values: list[str], around: list[str]) -> None:
    """Whatever the secrets and the text around them are, no secret is in the masked text."""
    glued = "".join(text + value for text in around for value in values)
    masked = Masker(values).mask(glued)
    assert not any(value in masked for value in values)


@given(secrets, st.text())
def test_masking_twice_changes_nothing(secret: str, text: str) -> None:
    """What is masked stays as it is."""
    masker = Masker([secret])
    once = masker.mask(text + secret + text)
    assert masker.mask(once) == once


@pytest.mark.parametrize(
    ("url", "bare", "credentials", "hidden"),
    [
        (
            "http://me:hunter22@proxy:3128/a?b=c@d",
            "http://proxy:3128/a?b=c@d",
            "me:hunter22",
            {"me:hunter22", "hunter22"},
        ),
        (
            "https://me:a%40bcd@[::1]:80",
            "https://[::1]:80",
            "me:a%40bcd",
            {"me:a%40bcd", "me:a@bcd", "a%40bcd", "a@bcd"},
        ),
        ("https://token@host", "https://host", "token", {"token"}),
        ("me:hunter22@proxy:3128", "proxy:3128", "me:hunter22", {"me:hunter22", "hunter22"}),
        ("http://me:no@host/", "http://host/", "me:no", {"me:no"}),
        ("http://@host/", "http://host/", "", set()),
        ("http://host/@scope/x", "http://host/@scope/x", "", set()),
        ("", "", "", set()),
    ],
)
def test_credentials_in(url: str, bare: str, credentials: str, hidden: set[str]) -> None:
    """An address splits into what may be shown and what must be hidden."""
    address = credentials_in(url)
    assert (address.bare, address.credentials, set(address.secrets)) == (bare, credentials, hidden)


@pytest.mark.parametrize(
    ("secret", "printed", "shown"),
    [
        ("http://u:hunter2@h:1 plain", "hunter2 h:1 plain", "*** h:1 plain"),
        ("u:hunter2@h:1", "u: hunter2", "u: ***"),
        ("t0ken@h:1", "t0ken", "***"),
        ("https://t0ken:@h", "t0ken", "***"),
        ("https://u:p@host/", "u:p p https://u:p@host", "u:p p ***"),
        ("team@work", "team work", "team work"),
    ],
)
def test_hides_the_parts_of_addresses_with_credentials(
    secret: str, printed: str, shown: str
) -> None:
    """A script may print the password of its proxy alone; other words stay readable."""
    assert Masker([secret]).mask(printed) == shown


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://x/disk?token=hush", "https://x/disk?***"),
        ("https://x/disk", "https://x/disk"),
        ("images/what?.qcow2", "images/what?.qcow2"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_query(address: str, words: str) -> None:
    """It may hold a token; a path of this host has no query."""
    assert shown(address) == words
