"""What every long test has."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Numbers for whoever reads the result, also when all is well."""

    def line(text: str) -> None:
        with capsys.disabled():
            os.write(2, f"{text}\n".encode())

    line("")
    return line
