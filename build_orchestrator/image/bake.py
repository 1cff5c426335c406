"""Bake one image: lay out what Packer needs, run it, judge what it did, and take what it made."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from build_orchestrator import cache
from build_orchestrator.configuration.files import text_of
from build_orchestrator.errors import EnvironmentFailure, OrchestratorError, ScriptFailed
from build_orchestrator.image import packer
from build_orchestrator.image.bake_base import Place, variables_of
from build_orchestrator.image.bake_inputs import rendered
from build_orchestrator.image.baked import Baked, packages_of
from build_orchestrator.machine.baker import MARK, SCRATCH
from build_orchestrator.machine.shortage import shortage
from build_orchestrator.model import Flavour
from build_orchestrator.render.packerfile import BOXED, INSIDE, TRUST, builder_name, path_of

GRACE_S = 10.0
GRACE_ELSEWHERE_S = 120.0
"""How long Packer may tidy up when it is stopped: on this host, and where machines cost money."""

TEMPORARY_FAILURE = 75
"""EX_TEMPFAIL: how a script says that its environment failed."""

SAID = re.compile(r"::exit (\d+)")
"""How inside.sh says how the script ended."""

LEFT = re.compile(r"::left (.+)")
"""How it says what the script has left of the machine's room and memory."""

MORE = {
    "file-system-full": "Raise size.disk_mib of the target in targets.yaml. On aws and virtualbox "
    "the disk is as large as the base image's: start from one with more.",
    "out-of-memory": "Raise size.memory_mib of the target in targets.yaml.",
}
"""What to do about a machine that has run out of something, by the rule that says so."""

TIMED_OUT = 124
"""What timeout(1) ends with."""

OnLine = Callable[[str], None]


def bake(
    place: Place,
    into: Path,
    *,
    project: Path,
    console: Path,
    trust: Mapping[str, str],
    on_line: OnLine,
) -> Baked:
    """Make the image in an empty folder, and say what it is.

    Args:
        console: where the machine's console is kept.
        trust: what the host needs to reach packages, by variable; ``CA_BUNDLE`` is a file.

    Raises:
        ScriptFailed: the flavour's script failed for its own reasons.
        EnvironmentFailure, HostNotReady: anything else.
    """
    target, flavour = place.build.target, place.build.flavour
    assert flavour is not None
    version = packer.require([target.provider])
    builder = builder_name(target.provider, flavour.name)
    file = _laid_out(place, project, flavour)
    (place.folder / "output").mkdir()
    values = {
        **variables_of(place),
        "serial": f"file:{console}",
        "ca_bundle": trust.get("CA_BUNDLE") or str(_empty(place.folder / "no-ca.pem")),
        # What is not to be passed on must not come out of the environment either.
        **{name: "" for name in TRUST if name not in trust},
    }
    variables = place.folder / "variables.json"
    variables.write_text(json.dumps(values, indent=2))
    prefix = re.compile(rf"^(==> |    ){re.escape(builder)}: ?")
    ended = packer.build(
        builder,
        file,
        variables,
        cwd=place.folder,
        env={
            MARK: place.name,
            "TMPDIR": str(_scratch(place.folder)),
            "PACKER_CACHE_DIR": str(place.folder / "cache"),
            **{name: trust[name] for name in TRUST if name in trust},
        },
        limit_s=place.limit_s,
        grace_s=GRACE_ELSEWHERE_S if target.provider == "aws" else GRACE_S,
        deadline=place.deadline,
        cancel=place.cancel,
        on_line=lambda line: on_line(prefix.sub("", line)),
        # Without room QEMU holds its machine until there is some, and a Packer that ends removes
        # what has filled the disk.
        check=lambda: cache.see_room(place.folder),
    )
    made = packer.artifact_ids(ended.rows, builder)
    if ended.status != 0 or not made:
        raise failure(ended, place.folder)
    return _taken(place, into, made, version, project)


def _laid_out(place: Place, project: Path, flavour: Flavour) -> Path:
    """packerfile.json and the files that it names, placed to each other as in a project."""
    target = place.build.target
    root = place.folder / "project"
    texts = {
        path_of(target.distro.name): rendered(project, [target], [flavour]),
        INSIDE: text_of(project, INSIDE),
        flavour.script: text_of(project, flavour.script),
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / path_of(target.distro.name)


def _scratch(folder: Path) -> Path:
    """A folder for Packer's sockets, whose names are short; it goes with the machine's folder."""
    made = Path(tempfile.mkdtemp(prefix="bo-packer-"))
    (folder / SCRATCH).symlink_to(made)
    return made


def _empty(path: Path) -> Path:
    path.touch()
    return path


def failure(ended: packer.Ended, folder: Path) -> OrchestratorError:
    """Why Packer made no image, by what can be measured: the disks, the script, a signal."""
    words = packer.errors(ended.rows) or ended.last_words
    if cache.disk_is_full(folder):
        return cache.no_room(folder, words)
    said = _said(SAID, ended)
    status = int(said[-1]) if said else 0
    if status == TEMPORARY_FAILURE:
        return EnvironmentFailure("the script said that its environment failed (75)", details=words)
    if lacking := shortage(_said(LEFT, ended)):
        end = f", and the image's script ended with status {status}" if status else ""
        return EnvironmentFailure(
            f"{lacking.explanation}{end}", details=words, resolution=MORE[lacking.rule]
        )
    if status:
        return ScriptFailed(
            f"the image's script ended with status {status}",
            details=words,
            resolution="The last lines of the log say more.",
        )
    if ended.status == TIMED_OUT:
        return EnvironmentFailure("Packer did not end within its limit", details=words)
    if ended.status > 128:
        number = ended.status - 128
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        return EnvironmentFailure(
            f"Packer was killed by {name}",
            details=words,
            resolution="Was it the kernel, for want of memory? Try again.",
        )
    if ended.status == 0:
        return EnvironmentFailure(
            "Packer said that all went well, and made no image",
            details=words,
            resolution="Its whole output is in the log.",
        )
    return EnvironmentFailure(
        f"Packer could not make the image (status {ended.status})", details=words
    )


def _said(what: re.Pattern[str], ended: packer.Ended) -> list[str]:
    return [match for each in ended.rows for match in what.findall(each.text)]


def _taken(place: Place, into: Path, made: tuple[str, ...], version: str, project: Path) -> Baked:
    """Move what was made into its entry of the cache."""
    target, flavour = place.build.target, place.build.flavour
    assert flavour is not None
    output = place.folder / "output"
    facts: dict[str, str] = {}
    size_bytes = 0
    snapshots: tuple[str, ...] = ()
    if target.provider == "aws":
        # region:ami-...; what was made of it afterwards has ids of its own.
        region, _, ami = next(each for each in made if ":ami-" in each).rpartition(":")
        facts = {"ami": ami, "region": region, "endpoint": target.options.get("endpoint", "")}
        size_bytes, snapshots = _disks_in_aws(place, facts)
    elif target.provider in BOXED:
        facts = {"file": "package.box"}
        shutil.move(output / "package.box", into / "package.box")
    else:
        facts = {"file": "disk.qcow2"}
        shutil.move(output / "disk" / place.name, into / "disk.qcow2")
        for kind, source in (("kernel", place.base.kernel), ("initrd", place.base.initrd)):
            if source:
                shutil.copyfile(source, into / Path(source).name)
                facts[kind] = Path(source).name
    path = into / facts["file"] if "file" in facts else None
    if path is not None:
        size_bytes = path.stat().st_size
    return Baked(
        project=str(project),
        target=target.name,
        distro=target.distro.name,
        provider=target.provider,
        flavour=flavour.name,
        key=place.build.key,
        inputs=place.build.inputs,
        base=place.base.source,
        made_at=0.0,  # Stated by the index.
        packer=version,
        run_id=place.run_id,
        sha256=_digest(path) if path else "",
        size_bytes=size_bytes,
        file=facts.get("file", ""),
        kernel=facts.get("kernel", ""),
        initrd=facts.get("initrd", ""),
        ami=facts.get("ami", ""),
        region=facts.get("region", ""),
        endpoint=facts.get("endpoint", ""),
        snapshots=snapshots,
        packages=packages_of((output / "packages").read_text()),
    )


def _disks_in_aws(place: Place, facts: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    from build_orchestrator.machine.ec2 import images

    try:
        gib, snapshots = images.disks(**facts, deadline=place.deadline, cancel=place.cancel)
    except EnvironmentFailure:
        return 0, ()  # It is there, and must be remembered, even if its size is not known.
    return gib << 30, snapshots


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
