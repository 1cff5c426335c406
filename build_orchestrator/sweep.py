"""Destroy what a dead orchestrator left behind, and nothing else.

A machine is swept when all of this is true: a journal or the provider itself shows it, nobody
holds the heartbeat of its run on this host, or renews it on another one, and it is not kept until a
later time (or is named). What looks similar but does not carry the exact name of a machine of ours
is never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.journal import HEARTBEAT, JOURNAL, Entry, append, read, run_id, run_state
from build_orchestrator.locks import is_held, state_home, try_lock
from build_orchestrator.machine.contract import NotAllAsked, Provider, Shares, ShowsHeartbeats
from build_orchestrator.model import Identity

DESTROY_S = 60.0
STARTING_S = 3600.0
"""No orchestrator takes this long between its state folder and its journal."""

Providers = Callable[[str], Provider]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One machine that was found."""

    name: str
    provider: str
    target: str
    state: str
    """``destroyed``, ``found`` (dry run), ``spared`` or ``leaked``."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    entry: Entry
    journals: tuple[Path, ...]
    unaware: tuple[Path, ...] = ()
    """Those of its journals that do not call it gone."""
    shown: Identity | None = None
    """As the provider shows it, which may lead to another heartbeat than the journals do."""

    @property
    def gone(self) -> bool:
        """Whether any of its journals saw it end: a crash may have kept that from the other."""
        return self.unaware != self.journals


def sweep(
    provider: Providers,
    names: Iterable[str],
    *,
    project: Path | None,
    only: str = "",
    dry_run: bool = False,
    limit_s: float = DESTROY_S,
    unasked: Callable[[NotAllAsked], None] | None = None,
) -> tuple[Swept, ...]:
    """Destroy every machine of this host that was left behind.

    Args:
        provider: the provider with a given name.
        names: of the providers to ask what they show.
        project: its run folders are read too; None reads the state folder alone.
        only: a machine's name, its target's, a run's uuid or id: only that, and even
            if it is kept. A target's name reaches no kept machine of another project.
        dry_run: list, destroy nothing.
        limit_s: how long one machine may take to be gone, or to be sure that there is none.
        unasked: hears of the places of a provider that did not answer, and all others are swept.

    Raises:
        NotAllAsked: there is such a place, and nobody hears of it.
    """
    found = _known(project)
    for name in names:
        try:
            shown = provider(name).leftovers()
        except NotAllAsked as error:
            if unasked is None:
                raise
            unasked(error)
            shown = error.shown
        for identity in shown:
            known = found.get(identity.name) or _shown(identity)
            found[identity.name] = dataclasses.replace(known, shown=identity)
    swept = [
        _one(
            provider,
            each,
            forced=_is_meant(each, only, project),
            dry_run=dry_run,
            limit_s=limit_s,
        )
        for each in found.values()
        if not only or _is_named(each, only)
    ]
    if not dry_run:
        for each in _journalled(project).values():
            if each.gone:
                _note_gone(each)
        _forget_finished_runs(provider)
    return tuple(swept)


def _is_named(found: _Found, name: str) -> bool:
    identity = found.entry.identity
    if name in (identity.name, identity.target, identity.run_uuid):
        return True
    return any(run_id(journal) == name for journal in found.journals)


def _is_meant(found: _Found, name: str, project: Path | None) -> bool:
    """Whether a kept machine goes before its time: every project may have a target of that name."""
    if name != found.entry.identity.target:
        return bool(name)
    return project is not None and any(project in journal.parents for journal in found.journals)


def _known(project: Path | None) -> dict[str, _Found]:
    """Every machine that no journal calls gone, by name."""
    return {name: each for name, each in _journalled(project).items() if not each.gone}


def _journalled(project: Path | None) -> dict[str, _Found]:
    """Every machine of which a journal tells, by name."""
    found: dict[str, _Found] = {}
    journals = sorted(state_home().glob(f"runs/*/{JOURNAL}"))
    if project is not None:
        journals += sorted(project.glob(f"runs/*/{JOURNAL}"))
    for journal in journals:
        for entry in read(journal):
            before = found.get(entry.identity.name, _Found(entry=entry, journals=()))
            found[entry.identity.name] = _Found(
                entry=entry if entry.answered else before.entry,
                journals=(*before.journals, journal),
                unaware=before.unaware if entry.gone else (*before.unaware, journal),
            )
    return found


def _note_gone(found: _Found) -> None:
    """Tell each journal that does not know it yet."""
    for journal in found.unaware:
        # Deleted meanwhile, on a full disk, or not ours to write: another one will do.
        with contextlib.suppress(OSError):
            append(
                (journal,), {"kind": "gone", "at": time.time(), "name": found.entry.identity.name}
            )


def _shown(identity: Identity) -> _Found:
    """A machine that our journals do not know.

    The journal of another state folder may: it lies above the machine's own folder, and is the one
    place that says whether the machine is kept.
    """
    if identity.folder:
        journal = Path(identity.folder).parents[1] / JOURNAL
        for entry in read(journal):
            if entry.identity.name == identity.name:
                return _Found(entry=entry, journals=(journal,), unaware=(journal,))
    lost = Entry(identity=identity, limit_at=0.0, request={}, answered=True)
    return _Found(entry=lost, journals=())


def _one(
    provider: Providers, found: _Found, *, forced: bool, dry_run: bool, limit_s: float
) -> Swept:
    entry, identity = found.entry, found.entry.identity

    def swept(state: str, reason: str) -> Swept:
        return Swept(
            name=identity.name,
            provider=identity.provider,
            target=identity.target,
            state=state,
            reason=reason,
        )

    if any(_heartbeat_held(each) for each in (identity, found.shown) if each):
        return swept("spared", "its orchestrator is alive")
    try:
        if living := _seen_living(provider, found):
            return swept("spared", living)
    except OrchestratorError as error:
        return swept("leaked", error.brief)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.kept_until))
    early = entry.kept_until > time.time()
    if early and not forced:
        return swept("spared", f"kept until {until}")
    # Of another host's machine the provider's own tags are all there is to go by.
    reason = identity.details.get("spared", "")
    if not found.journals and reason and not forced:
        return swept("spared", reason)
    reason = f"it was kept until {until}" + (", and is named" if early else "")
    if not entry.kept_until:
        reason = "its orchestrator is gone"
    if dry_run:
        return swept("found", reason)
    try:
        machine = provider(identity.provider).adopt(_placed(_asked_for(entry)))
        machine.destroy(deadline=Deadline("destroy", limit_s))
    except OrchestratorError as error:
        return swept("leaked", error.brief)
    except OSError as error:
        return swept("leaked", str(error))
    _note_gone(found)
    return swept("destroyed", reason)


def _placed(identity: Identity) -> Identity:
    """An identity whose folder is known: where the provider did not tell, it is where we put it."""
    if identity.folder:
        return identity
    folder = run_state(identity.run_uuid) / "machines" / identity.name
    return dataclasses.replace(identity, folder=str(folder))


def _asked_for(entry: Entry) -> Identity:
    """Of a machine whose launch was not answered, what was asked for says where it may be."""
    if entry.answered:
        return entry.identity
    options = entry.request.get("options", {})
    details = {**options, "intended_at": f"{entry.intended_at:.3f}"}
    return dataclasses.replace(entry.identity, details=details)


def _heartbeat_held(identity: Identity) -> bool:
    """Whether the machine's orchestrator lives.

    The folder tells whose state it belongs to: an orchestrator with another state folder (another
    XDG_STATE_HOME on the same host) is spared as well.
    """
    return any(is_held(path) for path in _heartbeats(identity))


def _heartbeats(identity: Identity) -> set[Path]:
    found = {run_state(identity.run_uuid) / HEARTBEAT}
    if identity.folder:
        found.add(Path(identity.folder).parents[1] / HEARTBEAT)
    return found


def _seen_living(provider: Providers, found: _Found) -> str:
    """What the provider shows of an orchestrator of another host, in words; empty for one of this.

    A checkout that hosts share holds journals of each. Of a run of this host the lock, which is
    free, tells more than a tag that is young.
    """
    each = found.shown or _asked_for(found.entry)
    if any(path.exists() for path in _heartbeats(each) | _heartbeats(found.entry.identity)):
        return ""
    if found.shown:
        return each.details.get("living", "")
    owner = provider(each.provider)
    return owner.living(each) if isinstance(owner, ShowsHeartbeats) else ""


def _forget_finished_runs(provider: Providers) -> None:
    """Remove the state of runs whose orchestrator is gone and whose machines all are.

    An orchestrator holds its heartbeat before it writes its journal, so a folder with a journal
    and a free heartbeat has no orchestrator, and will not get one. A folder without a journal is
    that of an orchestrator which starts at this moment, or was killed then, long ago.
    """
    for folder in state_home().glob("runs/*"):
        with contextlib.suppress(FileNotFoundError):  # Another sweep was faster.
            starting = time.time() - folder.stat().st_mtime < STARTING_S
            if starting and not (folder / JOURNAL).exists():
                continue
            if (lock := try_lock(folder / HEARTBEAT)) is None:
                continue
            entries = read(folder / JOURNAL)
            if all(entry.gone for entry in entries):
                names = {entry.identity.provider for entry in entries}
                shared = any(isinstance(provider(name), Shares) for name in names)
                _forget(folder, but=HEARTBEAT if shared else "")
            lock.release()


def _forget(folder: Path, *, but: str) -> None:
    """Remove a run's state; its heartbeat goes an hour later where its machines shared something.

    As long as it is there, and free, a sweep knows that what they shared is nobody's any more.
    """
    if not but:
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != but:
            path.unlink(missing_ok=True)


def alive_machines(project: Path | None) -> Iterator[Entry]:
    """Every machine that the journals do not call gone, oldest first, for `build status` and
    `build ssh`."""
    entries = [found.entry for found in _known(project).values()]
    yield from sorted(entries, key=lambda entry: entry.intended_at)
