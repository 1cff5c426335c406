"""Wheels and wagons for tests, made without any tool."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIME = (2024, 1, 1, 0, 0, 0)


def make_wheel(
    folder: Path,
    name: str = "thing",
    version: str = "1.0",
    tag: str = "py3-none-any",
    *,
    needs: tuple[str, ...] = (),
    python: str = "",
) -> Path:
    """A wheel of one module that says its version, which pip installs."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    metadata += f"Requires-Python: {python}\n" if python else ""
    files = {
        f"{name.replace('-', '_')}.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        for each, text in files.items():
            zipped.writestr(zipfile.ZipInfo(each, TIME), text)
    return path


def make_source(folder: Path, name: str = "my-plugin", needs: tuple[str, ...] = ()) -> Path:
    """A project that has a pyproject.toml and no setup.py."""
    folder.mkdir(parents=True)
    (folder / "my_plugin.py").write_text("VERSION = '2.0'\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "2.0"\ndependencies = {json.dumps(needs)}\n'
        '[tool.setuptools]\npy-modules = ["my_plugin"]\n'
    )
    return folder


def make_wagon(path: Path, wheels: list[Path], package: Mapping[str, Any]) -> Path:
    """A wagon by hand, as the original writes it: without checksums."""
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("thing/package.json", json.dumps(package))
        for wheel in wheels:
            zipped.write(wheel, f"thing/wheels/{wheel.name}")
    return path
