"""One question to AWS for all machines of a run, however many wait for an answer.

A thread asks while somebody has a machine: quickly while one starts, slowly while they only live.
It also renews the heartbeat, in one request for everything of the run, until the run is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded
from build_orchestrator.machine.ec2.api import Api
from build_orchestrator.machine.ec2.launch import HEARTBEAT, Seen, tag_list

FIRST_S = 0.5
GROWTH = 1.3
STARTING_S = 5.0
"""The longest pause while a machine starts."""
LIVING_S = 15.0
"""The pause while machines only live."""
HEARTBEAT_S = 60.0
"""The period of the heartbeat; who is silent for three is taken for dead."""
WAKE_S = 0.2
VANISHED = 3
"""A machine that was seen, and then in so many answers was not, is gone."""
BATCH = 500
"""How many things one CreateTags may name."""

Died = Callable[[Seen], None]


class Watch:
    """What AWS says of the machines of one run. Thread-safe."""

    def __init__(self, api: Api, run_uuid: str) -> None:
        self._api = api
        self._run_uuid = run_uuid
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._began_at = 0.0
        self._seen: dict[str, Seen] = {}
        self._missed: dict[str, int] = {}
        self._watched: dict[str, Died] = {}
        self._starting: set[str] = set()
        self._beating: set[str] = set()
        self._pause_s = FIRST_S
        self._beat_at = 0.0
        self._asked_at = 0.0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.failure = ""
        """Why the last question had no answer; empty where it had one."""

    def follow(self, name: str, instance_id: str, died: Died) -> None:
        """Look after a machine from now on; ``died`` hears once that it is not alive any more."""
        with self._changed:
            self._watched[name] = died
            self._starting.add(name)
            self._beating.add(instance_id)
            self._pause_s = FIRST_S
            self._start()
            self._changed.notify_all()

    def beat_for(self, *ids: str) -> None:
        """Renew the heartbeat of these from now on, whether there is a machine or not: it may be
        long in coming, or Packer's."""
        with self._changed:
            self._beating.update(ids)
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._beat_at = time.monotonic() + HEARTBEAT_S
            self._thread = threading.Thread(target=self._watch, name="ec2", daemon=True)
            self._thread.start()

    def started(self, name: str) -> None:
        """A machine answers: nobody waits for its news any more."""
        with self._changed:
            self._starting.discard(name)

    def forget(self, name: str, instance_id: str) -> None:
        """Stop looking after a machine."""
        with self._changed:
            self._watched.pop(name, None)
            self._starting.discard(name)
            self._beating.discard(instance_id)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def last(self, name: str) -> Seen | None:
        """What the last answers said of a machine; None where they have not shown it."""
        with self._changed:
            return self._seen.get(name)

    def wait(
        self, name: str, until: Callable[[Seen], bool], *, deadline: Deadline, cancel: Cancel
    ) -> Seen:
        """Wait until what AWS says of a machine is what is wanted.

        Raises:
            DeadlineExceeded: with what AWS said last.
            Interrupted
        """
        while True:
            cancel.check()
            if deadline.passed:
                raise DeadlineExceeded(
                    deadline.stage,
                    deadline.limit_s,
                    f"AWS to start {name}; the last that it said: {self._last_words(name)}",
                )
            with self._changed:
                machine = self._seen.get(name)
                if machine is not None and until(machine):
                    return machine
                self._changed.wait(WAKE_S)

    def _last_words(self, name: str) -> str:
        machine = self.last(name)
        if self.failure or machine is None:
            return self.failure or "nothing"
        has = machine.public_address or "none"  # Not every subnet gives one.
        return f"{machine.state}, public address: {has}"

    def _watch(self) -> None:
        while True:
            with self._changed:
                pause_s = self._pause_s if self._starting else LIVING_S
                until = self._asked_at + pause_s
                while not self._stopped and (left_s := until - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                    until = self._asked_at + (self._pause_s if self._starting else LIVING_S)
                if self._stopped:
                    return
                self._pause_s = min(self._pause_s * GROWTH, STARTING_S)
                idle = not self._watched
            if idle:
                self._asked_at = time.monotonic()
            else:
                self.ask()
            self._beat()

    def ask(self) -> None:
        """Ask now, once for all who want to know at this moment. Where there is no answer, what was
        known stays."""
        wanted_at = time.monotonic()
        with self._asking:
            if self._began_at > wanted_at:
                return  # Somebody has asked since.
            self._began_at = time.monotonic()
            dead = self._ask()
        for died, machine in dead:
            died(machine)

    def _ask(self) -> list[tuple[Died, Seen]]:
        # Whatever goes wrong here: the thread lives on, and asks again.
        try:
            machines = self._api.machines(run=self._run_uuid)
            self.failure = ""
        except Exception as error:  # noqa: BLE001
            self.failure = str(error)
            return []
        finally:
            self._asked_at = time.monotonic()
        with self._changed:
            dead = self._take(machines)
            self._changed.notify_all()
        return dead

    def _take(self, machines: list[Seen]) -> list[tuple[Died, Seen]]:
        import dataclasses

        shown = {machine.name: machine for machine in machines}
        for name, machine in list(self._seen.items()):
            if name in shown:
                self._missed.pop(name, None)
                continue
            self._missed[name] = self._missed.get(name, 0) + 1
            if self._missed[name] >= VANISHED:
                gone = "AWS does not show it any more"
                shown[name] = dataclasses.replace(machine, state="terminated", reason=gone)
        self._seen.update(shown)
        return [
            (self._watched.pop(name), machine)
            for name, machine in shown.items()
            if name in self._watched and not machine.alive
        ]

    def _beat(self) -> None:
        with self._changed:
            if time.monotonic() < self._beat_at:
                return
            self._beat_at = time.monotonic() + HEARTBEAT_S
            ids = sorted(self._beating)
        for first in range(0, len(ids), BATCH):
            self._tag(ids[first : first + BATCH])

    def _tag(self, ids: list[str]) -> None:
        tags = tag_list({HEARTBEAT: str(int(self._api.now()))})
        try:
            self._api.ec2.create_tags(Resources=ids, Tags=tags)
        except Exception:  # noqa: BLE001 - three periods are patience enough for one that fails
            if len(ids) > 1:  # One that is gone fails the request for all.
                for each in ids:
                    with contextlib.suppress(Exception):
                        self._api.ec2.create_tags(Resources=[each], Tags=tags)
