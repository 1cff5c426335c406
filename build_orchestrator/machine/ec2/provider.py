"""The provider ``aws``: one EC2 instance for each machine, and nothing that outlives the run.

In AWS's account everything of ours carries a tag with the run's uuid and the name of the machine;
tags, not our memory, are what a sweep from another host goes by.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.contract import (
    Abilities,
    Cloud,
    Left,
    MachineRequest,
    NotAllAsked,
    Notify,
    silent,
)
from build_orchestrator.machine.ec2 import leftovers
from build_orchestrator.machine.ec2.api import Api, api_of
from build_orchestrator.machine.ec2.boot import Boot, connection_of, known_place
from build_orchestrator.machine.ec2.launch import (
    TARGET,
    Purpose,
    Root,
    Shared,
    Way,
    key_name,
    parameters,
    place_of,
    purpose_of,
    shared_name,
    way_of,
)
from build_orchestrator.machine.ec2.machine import Ec2Machine
from build_orchestrator.machine.ec2.shared import (
    await_shown,
    make_shared,
    remove_shared,
    still_alive,
    user_key,
)
from build_orchestrator.machine.ec2.watch import Watch
from build_orchestrator.model import Distro, Identity

NETWORK = ("subnet_id", "security_group_id", "allow_from", "address")
"""The options that decide which group a machine is in."""
PUBLIC_KEY = "PUBLIC-KEY-OF-THE-RUN"
"""Stands for it in what people are shown before there is one."""


@dataclass(kw_only=True)
class _Ground:
    """What the machines of one run have in common in one region."""

    api: Api
    watch: Watch
    run_uuid: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    shared: dict[tuple[Way, tuple[str, ...]], Shared] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    """The ids of what they share."""
    outliving: set[str] = field(default_factory=set)
    """Names of the machines of which a row says that they outlive the run: kept, or leaked."""

    def note_made(self, name: str) -> None:
        """Remember the id of something that they share, and renew its heartbeat."""
        self.made.add(name)
        self.watch.beat_for(name)


class Ec2Provider:
    """Launches machines in AWS."""

    name = "aws"
    abilities = Abilities(windows=True)

    def __init__(self, notify: Notify = silent, cloud: Cloud = Cloud()) -> None:  # noqa: B008
        """``notify`` hears what is not part of any one build."""
        self._notify = notify
        self._cloud = cloud
        self._grounds: dict[tuple[str, str, str], _Ground] = {}
        self._lock = threading.Lock()

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        run_uuid = request.identity.run_uuid
        way = way_of(request.distro, request.communicator, request.options)
        group = request.options.get("security_group_id") or shared_name(run_uuid)
        name = key_name(run_uuid, way)
        shared = Shared(key_name=name, group_id=group, public_key=PUBLIC_KEY)
        launch = parameters(
            request, place_of(request), shared, Root(device="ROOT", size_gib=1), now=0.0
        )
        user_data = launch.pop("UserData")
        script = "user-data.bat" if request.distro.windows else "user-data.sh"
        return {"launch.json": json.dumps(launch, indent=2) + "\n", script: user_data}

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Callable[[Identity], None],
    ) -> Ec2Machine:
        place = known_place(request)
        api = api_of(place["region"], place["endpoint"])
        ground = self._ground(api, request.identity.run_uuid)

        def shared(deadline: Deadline, cancel: Cancel) -> Shared:
            way = way_of(request.distro, request.communicator, request.options)
            folder = Path(request.identity.folder)
            purpose = purpose_of(request)
            return self._shared(ground, purpose, request.options, way, folder, deadline, cancel)

        return Boot(
            request=request,
            api=api,
            watch=ground.watch,
            shared=shared,
            deadline=deadline,
            cancel=cancel,
            identified=identified,
            notify=self._notify,
            outlives=lambda: ground.outliving.add(request.identity.name),
        ).go()

    def share(
        self,
        purpose: Purpose,
        distro: Distro,
        options: Mapping[str, str],
        folder: Path,
        *,
        deadline: Deadline,
        cancel: Cancel,
    ) -> tuple[Shared, Path]:
        """What the machines of a run share, for one that Packer launches, and the private key.

        Args:
            folder: the machine's own.

        Raises:
            EnvironmentFailure: AWS will not have it.
        """
        api = api_of(options["region"], options.get("endpoint", ""))
        ground, way = self._ground(api, purpose.run_uuid), way_of(distro, "ssh", options)
        shared = self._shared(ground, purpose, options, way, folder, deadline, cancel)
        return shared, user_key(folder, way.key_kind)

    def adopt(self, identity: Identity) -> Ec2Machine:
        details = identity.details
        api = api_of(details.get("region", ""), details.get("endpoint", ""))
        return Ec2Machine(identity, api, connection_of(identity))

    def leftovers(self) -> list[Identity]:
        """What AWS shows of ours in the regions that were named; see ``leftovers``."""
        shown: list[Identity] = []
        errors = []
        for region in self._cloud.regions:
            try:
                shown += leftovers.find(api_of(region, self._cloud.endpoint))
            except OrchestratorError as error:  # An account has not enabled every region.
                errors.append(error)
        if errors:
            raise NotAllAsked(errors, shown)
        return shown

    def living(self, identity: Identity) -> str:
        details = identity.details
        api = api_of(details.get("region", ""), details.get("endpoint", ""))
        return leftovers.living(api, identity.run_uuid)

    def close(self, *, deadline: Deadline) -> tuple[Left, ...]:
        left: list[Left] = []
        for ground in self._grounds.values():
            ground.watch.close()
            left += _left(ground, deadline)
        self._grounds.clear()
        return tuple(left)

    def _ground(self, api: Api, run_uuid: str) -> _Ground:
        with self._lock:
            key = (api.region, api.endpoint, run_uuid)
            if key not in self._grounds:
                watch = Watch(api, run_uuid)
                self._grounds[key] = _Ground(api=api, watch=watch, run_uuid=run_uuid)
            return self._grounds[key]

    def _shared(
        self,
        ground: _Ground,
        purpose: Purpose,
        options: Mapping[str, str],
        way: Way,
        folder: Path,
        deadline: Deadline,
        cancel: Cancel,
    ) -> Shared:
        wanted = way, tuple(options.get(name, "") for name in NETWORK)
        with ground.lock:
            if wanted not in ground.shared:
                # Whoever had the lock may have waited in vain for AWS: the others need not, too.
                cancel.check()
                deadline.check()
                key = user_key(folder, way.key_kind)
                ground.shared[wanted] = make_shared(
                    ground.api,
                    purpose,
                    options,
                    way,
                    key,
                    ground.note_made,
                    deadline=deadline,
                    cancel=cancel,
                )
            return ground.shared[wanted]


def _left(ground: _Ground, deadline: Deadline) -> list[Left]:
    """What is left of a run whose machines have ended, but for those of which its rows tell."""
    api = ground.api
    left: list[Left] = []
    with contextlib.suppress(OrchestratorError):  # Removing says the same, and is told.
        for seen in still_alive(api, ground.run_uuid, ground.outliving, deadline=deadline):
            if machine := leftovers.identified(api, seen):
                text = f"{seen.name} ({seen.instance_id}, {api.region}) is {seen.state}"
                target = seen.tags.get(TARGET, machine.target)  # A bake's machine is called -bake.
                left.append(Left(text=text, machine=machine, target=target))
    await_shown(api, ground.run_uuid, ground.made, deadline=deadline)
    texts = remove_shared(api, ground.run_uuid, deadline=deadline)
    return left + [Left(text=f"{text} ({api.region})") for text in texts]
