"""The run from a copy: quick, and of nothing but what is packed."""

from __future__ import annotations

from pathlib import Path

from build_orchestrator.agent.validation import lend_byte_code


def test_byte_code_is_lent_to_what_was_copied_and_to_nothing_else(tmp_path: Path) -> None:
    """Not to modules of others that are called alike, nor to what was left out."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    for folder in ("", "json", "test", "lib2to3", "site-packages/pip"):
        (source / folder / "__pycache__").mkdir(parents=True)
        (source / folder / "__pycache__/x.pyc").write_text(folder)
    for folder in ("json", "test", "site-packages/pip"):
        (copy / folder).mkdir(parents=True)

    lend_byte_code(source, copy)

    found = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*.pyc"))
    assert found == ["__pycache__/x.pyc", "json/__pycache__/x.pyc"]
    assert (copy / found[0]).stat().st_ino == (source / found[0]).stat().st_ino
