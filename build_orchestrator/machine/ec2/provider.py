"""The provider ``aws``: one EC2 instance for each machine, and nothing that outlives the run.

In AWS's account everything of ours carries a tag with the run's uuid and the name of the machine;
tags, not our memory, are what a sweep from another host goes by.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.machine.contract import Abilities, Cloud, MachineRequest, Notify, silent
from build_orchestrator.machine.ec2 import leftovers
from build_orchestrator.machine.ec2.api import Api, api_of
from build_orchestrator.machine.ec2.boot import Boot, connection_of, known_place
from build_orchestrator.machine.ec2.launch import (
    Root,
    Shared,
    Way,
    key_name,
    parameters,
    place_of,
    shared_name,
    way_of,
)
from build_orchestrator.machine.ec2.machine import Ec2Machine
from build_orchestrator.machine.ec2.shared import IN_USE, make_shared, remove_shared, user_key
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
    kept: bool = False

    def keep(self) -> None:
        self.kept = True


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
            return self._shared(ground, request.options, way, folder, deadline, cancel)

        return Boot(
            request=request,
            api=api,
            watch=ground.watch,
            shared=shared,
            deadline=deadline,
            cancel=cancel,
            identified=identified,
            notify=self._notify,
            kept=ground.keep,
        ).go()

    def share(
        self,
        run_uuid: str,
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
        ground, way = self._ground(api, run_uuid), way_of(distro, "ssh", options)
        shared = self._shared(ground, options, way, folder, deadline, cancel)
        return shared, user_key(folder, way.key_kind)

    def adopt(self, identity: Identity) -> Ec2Machine:
        details = identity.details
        api = api_of(details.get("region", ""), details.get("endpoint", ""))
        return Ec2Machine(identity, api, connection_of(identity))

    def leftovers(self) -> list[Identity]:
        """What AWS shows of ours in the regions that were named; see ``leftovers``."""
        endpoint = self._cloud.endpoint
        return [
            identity
            for region in self._cloud.regions
            for identity in leftovers.find(api_of(region, endpoint), endpoint)
        ]

    def living(self, identity: Identity) -> str:
        details = identity.details
        api = api_of(details.get("region", ""), details.get("endpoint", ""))
        return leftovers.living(api, identity.run_uuid)

    def close(self, *, deadline: Deadline) -> tuple[str, ...]:
        """The run is over: remove what its machines shared.

        Returns:
            What could not be removed, in words. It costs nothing, and a sweep finds it.
        """
        left = []
        for ground in self._grounds.values():
            ground.watch.close()
            text = remove_shared(ground.api, ground.run_uuid, deadline=deadline)
            if text and not (ground.kept and IN_USE in text):
                left.append(
                    f"{text} ({ground.api.region}); `build sweep --provider aws` removes it"
                )
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
        options: Mapping[str, str],
        way: Way,
        folder: Path,
        deadline: Deadline,
        cancel: Cancel,
    ) -> Shared:
        wanted = way, tuple(options.get(name, "") for name in NETWORK)
        with ground.lock:
            if wanted not in ground.shared:
                key = user_key(folder, way.key_kind)
                ground.shared[wanted], ids = make_shared(
                    ground.api, ground.run_uuid, options, way, key, deadline=deadline, cancel=cancel
                )
                ground.watch.beat_for(*ids)
            return ground.shared[wanted]
