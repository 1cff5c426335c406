"""What AWS shows of ours, whoever started it: found by tags alone.

A run may have its orchestrator on another host, so its heartbeat is a tag, and its age is judged by
AWS's clock. What carries no tag of ours is not seen at all.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping

from build_orchestrator.machine.ec2.api import Api, asking
from build_orchestrator.machine.ec2.launch import (
    HEARTBEAT,
    KEPT_UNTIL,
    NAME,
    RUN,
    SHARED_NAME,
    Seen,
    shared_name,
    tags_of,
)
from build_orchestrator.machine.ec2.watch import HEARTBEAT_S
from build_orchestrator.model import Identity

SILENT_S = 3 * HEARTBEAT_S


def find(api: Api) -> list[Identity]:
    """Every machine of ours that is alive in a region, and every run of which only what its
    machines shared is left: one identity stands for it. Among the details ``living`` says that its
    orchestrator lives, and ``spared`` why one is not to be touched unless it is named."""
    with asking(f"what is left in {api.region}"):
        machines = [seen for seen in api.machines() if seen.alive]
        shared = list(_shared(api))
    beats = _heartbeats([*(seen.tags for seen in machines), *shared])
    found = []
    for seen in machines:
        if identity := identified(api, seen):
            spared = _spared(api, beats[identity.run_uuid], seen.tags)
            details = {**identity.details, **spared}
            found.append(dataclasses.replace(identity, details=details))
    with_machines = {identity.run_uuid for identity in found}
    without = dict.fromkeys(tags[RUN] for tags in shared if tags[RUN] not in with_machines)
    return found + [
        Identity(
            provider="aws",
            name=shared_name(run_uuid),
            run_uuid=run_uuid,
            target="",
            attempt=0,
            details={**_place(api), **_spared(api, beats[run_uuid], {})},
        )
        for run_uuid in without
        if SHARED_NAME.fullmatch(shared_name(run_uuid))
    ]


def identified(api: Api, seen: Seen) -> Identity | None:
    """Whose machine it is that AWS shows; None where it is none of ours."""
    match, run_uuid = NAME.fullmatch(seen.name), seen.tags.get(RUN, "")
    # Both must be ours: a name alone anybody may give, and a tag may be copied.
    if match is None or match["run_uuid"] != run_uuid:
        return None
    return Identity(
        provider="aws",
        name=seen.name,
        run_uuid=run_uuid,
        target=match["target"],
        attempt=int(match["attempt"]),
        details={**_place(api), "instance": seen.instance_id},
    )


def _place(api: Api) -> dict[str, str]:
    return {"region": api.region, "endpoint": api.endpoint}


def _shared(api: Api) -> Iterator[Mapping[str, str]]:
    """The tags of every key pair, security group and unused disk of ours."""
    ours = [{"Name": "tag-key", "Values": [RUN]}]
    for pair in api.ec2.describe_key_pairs(Filters=ours).get("KeyPairs", ()):
        yield tags_of(pair)
    for group in api.ec2.describe_security_groups(Filters=ours).get("SecurityGroups", ()):
        yield tags_of(group)
    unused = [*ours, {"Name": "status", "Values": ["available"]}]
    for volume in api.ec2.describe_volumes(Filters=unused).get("Volumes", ()):
        yield tags_of(volume)


def _heartbeats(things: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """When each run's orchestrator was last alive, by the tags of all that belongs to it: what
    Packer launches has no heartbeat of its own."""
    newest: dict[str, float] = {}
    for tags in things:
        run_uuid = tags.get(RUN, "")
        newest[run_uuid] = max(newest.get(run_uuid, 0.0), _number(tags, HEARTBEAT))
    return newest


def _spared(api: Api, heartbeat: float, tags: Mapping[str, str]) -> dict[str, str]:
    """Why something is not to be destroyed now, for those who know nothing else of it."""
    if said := _alive(api, heartbeat):
        return {"living": said}
    if (until := _number(tags, KEPT_UNTIL)) > api.now():
        return {"spared": f"kept until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(until))}"}
    return {}


def living(api: Api, run_uuid: str) -> str:
    """When the orchestrator of a run was last alive, in words; empty where it is taken for dead."""
    with asking(f"who lives in {api.region}"):
        beats = _heartbeats([*(seen.tags for seen in api.machines(run=run_uuid)), *_shared(api)])
    return _alive(api, beats.get(run_uuid, 0.0))


def _alive(api: Api, heartbeat: float) -> str:
    silent_s = api.now() - heartbeat
    if silent_s >= SILENT_S:
        return ""
    return f"its orchestrator was alive {max(0, int(silent_s))} s ago"


def _number(tags: Mapping[str, str], name: str) -> float:
    try:
        return float(tags.get(name, "0"))
    except ValueError:  # Somebody wrote into it by hand.
        return 0.0
