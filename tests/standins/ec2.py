"""An EC2 on loopback: moto's server, as a process of its own, whose instances are real processes.

``python -m tests.standins.ec2 FOLDER IMAGE PREFIX`` prints its address and serves until its
standard input closes; then every machine is killed. It also serves S3 and Systems Manager. What
moto leaves out, and AWS does, is done here:

- a ClientToken makes one machine of any number of requests, and is refused with other parameters;
- machines are ``pending`` and ``shutting-down`` for a moment;
- a machine that powers itself off is terminated or stopped, as it was launched to be;
- a security group that is in use cannot be deleted;
- the conditions of the smallest policy hold for whoever has CREDENTIALS;
- the console is the machine's own, and so is the key pair that it was launched with;
- the password of a Windows machine is encrypted with that key pair, and told after a moment;
- an image of a stopped machine holds what was on its disk, and machines start from it.

Each machine has an address of its own in 127.0.0.0/8. ``/standin`` takes JSON: faults to inject,
and machines to reclaim; a GET of it tells what was asked for (see ``Ec2``).
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_orchestrator.machine.ec2.permissions import actions_of, policy
from tests.standins.ec2_policy import allows

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

OWNER = "123456789012"
PARAMETER = "/images/sshd-standin"
"""A parameter of Systems Manager that holds the id of the older image."""
PORT = 2222
REGION = "eu-west-1"
PENDING_S = 0.2
SHUTTING_DOWN_S = 0.3
PASSWORD_S = 2.0
XML = [("Content-Type", "text/xml")]
ERROR = (
    "<?xml version='1.0' encoding='UTF-8'?><Response><Errors><Error><Code>{code}</Code>"
    "<Message>{message}</Message></Error></Errors><RequestID>1</RequestID></Response>"
)
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIASTANDIN000000000",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-of-the-stand-in",
    "AWS_REGION": REGION,
}


# --- for tests ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ec2:
    """A running stand-in."""

    endpoint: str
    ami: str
    """An image without a disk: an sshd of this host."""
    older_ami: str
    """The same, made before; both are called ``sshd-standin-*``, and belong to OWNER."""
    arm_ami: str
    """One that is made for another architecture."""
    old_ami: str
    """One whose sshd is an old one, and whose first start knows nothing of tokens."""
    machine_ami: str
    """An image that QEMU boots; empty where none was given."""
    windows_ami: str
    """An image of a Windows-like machine; empty where no drive C was given."""
    folder: Path

    def fault(self, action: str, code: str = "", **how: Any) -> None:
        """Let requests fail.

        Args:
            action: such as RunInstances; ``*`` for all of EC2.
            code: the error's; without one, an internal error.
            how: ``status`` (400; without a code 500), ``times`` (1), ``skip`` (so many first),
                ``seconds`` (for so long, instead of times), ``after`` (do it, then fail),
                ``blank`` (say that there is nothing), ``ends`` (launch a machine, say so, and end
                it before it runs; the code is the reason).
        """
        self._say({"fault": {"action": action, "code": code, **how}})

    def reclaim(self, instance_id: str) -> None:
        """Take a spot machine back."""
        self._say({"reclaim": instance_id})

    def reset(self) -> None:
        """Forget all faults, and end and remove everything."""
        self._say({"reset": True})

    def shown(self) -> dict[str, Any]:
        """``actions`` (name -> how often asked), ``instances`` (id -> name, state, ...), ``keys``,
        ``groups``, ``volumes``; ``lets_in`` (who may connect to which port)."""
        with urllib.request.urlopen(f"{self.endpoint}/standin", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def alive(self) -> list[str]:
        """The ids of machines that have not ended."""
        shown = self.shown()["instances"].items()
        return [name for name, each in shown if each["state"] not in ("terminated", ENDING)]

    def left(self) -> list[str]:
        """Everything of ours that AWS would still show: machines, keys, groups, volumes."""
        shown = self.shown()
        return [*self.alive(), *shown["keys"], *shown["groups"], *shown["volumes"]]

    def _say(self, what: dict[str, Any]) -> None:
        data = json.dumps(what).encode()
        with urllib.request.urlopen(f"{self.endpoint}/standin", data=data, timeout=30):
            pass


ENDING = "shutting-down"


@contextlib.contextmanager
def ec2_server(image: Path | None = None, windows: Path | None = None) -> Iterator[Ec2]:
    """A stand-in that lives as long as the block; ``image`` is a bootstrapped image's folder, or
    ``ami.cloud_image()``, ``windows`` a drive C as tests/standins/windows.py makes them."""
    with tempfile.TemporaryDirectory(prefix="ec2-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT)
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.standins.ec2",
                place,
                str(image or ""),
                str(windows or ""),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **CREDENTIALS, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
        )
        os.close(log)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            assert line, (folder / "server.log").read_text()
            yield Ec2(folder=folder, **json.loads(line))
        finally:
            child.stdin.close()
            child.wait(timeout=30)
            child.stdout.close()


# --- the server ---------------------------------------------------------------------------------


class Standin:
    """In front of moto: faults, launch tokens, and groups in use. One request at a time."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.lock = threading.RLock()
        self._actions: dict[str, int] = {}
        self._faults: list[dict[str, Any]] = []
        self._launched: dict[str, tuple[str, bytes]] = {}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == "/standin":
            status, headers, answer = self._control(body)
        else:
            environ["wsgi.input"] = io.BytesIO(body)
            is_ec2 = b"Action=" in body[:4096]
            asked = dict(urllib.parse.parse_qsl(body.decode())) if is_ec2 else {}
            with self.lock:
                status, headers, answer = self._answer(environ, asked)
        start_response(status, headers)
        return [answer]

    def _answer(self, environ: Environ, asked: dict[str, str]) -> tuple[str, Any, bytes]:
        action = asked.get("Action", "")
        if not action:
            return self._moto(environ)
        self._actions[action] = self._actions.get(action, 0) + 1
        fault = self._fault_for(action)
        if fault is not None and not (fault.get("after") or fault.get("ends")):
            return _refusal(fault)
        if _is_forbidden(environ, asked):
            return _refusal({"code": "UnauthorizedOperation", "status": 403})
        if action == "DeleteSecurityGroup" and _in_use(asked["GroupId"]):
            return _refusal({"code": "DependencyViolation"})
        answer = self._launch(environ, asked) if action == "RunInstances" else self._moto(environ)
        if fault is not None and fault.get("ends"):
            _backend().all_instances()[-1].end(fault["code"])
            return answer
        return answer if fault is None else _refusal(fault)

    def _launch(self, environ: Environ, asked: dict[str, str]) -> tuple[str, Any, bytes]:
        """One token makes one machine; Packer sends none."""
        token, wanted = asked.get("ClientToken", ""), json.dumps(asked, sort_keys=True)
        if token and token in self._launched:
            parameters, answer = self._launched[token]
            if parameters != wanted:
                return _refusal({"code": "IdempotentParameterMismatch"})
            return "200 OK", XML, answer
        status, headers, answer = self._moto(environ)
        if status.startswith("200"):
            self._launched[token] = (wanted, answer)
        return status, headers, answer

    def _moto(self, environ: Environ) -> tuple[str, Any, bytes]:
        started: list[Any] = []
        answer = b"".join(self._application(environ, lambda *said: started.extend(said[:2])))
        return started[0], started[1], answer

    def _fault_for(self, action: str) -> dict[str, Any] | None:
        for fault in list(self._faults):
            if fault["action"] not in (action, "*"):
                continue
            if fault.get("skip", 0) > 0:
                fault["skip"] -= 1
                continue
            if "seconds" in fault:
                if time.monotonic() < fault.setdefault(
                    "until", time.monotonic() + fault["seconds"]
                ):
                    return fault
                self._faults.remove(fault)
                continue
            fault["times"] = fault.get("times", 1) - 1
            if fault["times"] <= 0:
                self._faults.remove(fault)
            return fault
        return None

    def _control(self, body: bytes) -> tuple[str, Any, bytes]:
        with self.lock:
            wanted = json.loads(body) if body else {}
            if "fault" in wanted:
                self._faults.append(wanted["fault"])
            if "reclaim" in wanted:
                _backend().get_instance(wanted["reclaim"]).end("Server.SpotInstanceTermination")
            if "reset" in wanted:
                self._faults.clear()
                _remove_everything()
            answer = json.dumps({"actions": self._actions, **_everything()}).encode()
        return "200 OK", [("Content-Type", "application/json")], answer


def _refusal(fault: dict[str, Any]) -> tuple[str, Any, bytes]:
    code = fault.get("code", "")
    if fault.get("blank"):
        nothing = b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
        return "200 OK", XML, nothing
    status = fault.get("status", 400 if code else 500)
    text = ERROR.format(code=code or "InternalError", message=f"injected {code}")
    return f"{status} Error", XML, text.encode()


def _is_forbidden(environ: Environ, asked: dict[str, str]) -> bool:
    """Whether the conditions of the smallest policy are against what our own code asks for. Packer,
    which has the same credentials, needs more than it names."""
    _, _, signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
    key, *scope = signed.partition(",")[0].split("/")
    is_ours = environ.get("HTTP_USER_AGENT", "").startswith("Boto3/")
    if not is_ours or key != CREDENTIALS["AWS_ACCESS_KEY_ID"] or "ec2" not in scope:
        return False
    smallest = policy(passwords=True)
    is_named = f"ec2:{asked['Action']}" in actions_of(smallest)
    return is_named and not allows(smallest, asked, _tags_of)


def _tags_of(name: str) -> set[str]:
    """The keys of the tags of what is there; what has ended loses them sooner or later."""
    backend = _backend()
    pair = backend.key_pairs.get(name)
    living = [each for each in backend.all_instances() if each.state != "terminated"]
    groups = [group for each in backend.groups.values() for group in each.values()]
    there = [*living, *groups, *backend.volumes.values(), *backend.key_pairs.values()]
    wanted = pair.id if pair else name
    return {key for each in there if each.id == wanted for key in backend.tags[wanted]}


def _backend() -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends[OWNER][REGION]


def _in_use(group_id: str) -> bool:
    return any(
        group_id in _groups_of(instance)
        for instance in _backend().all_instances()
        if instance.state != "terminated"
    )


def _groups_of(instance: Any) -> list[str]:
    """The ids of an instance's groups, however its launch has named them."""
    found = [*instance.security_groups]
    found += [group for nic in instance.nics.values() for group in nic.group_set]
    return list(dict.fromkeys(group.id for group in found))


def _everything() -> dict[str, Any]:
    backend = _backend()
    groups = [group for each in backend.groups.values() for group in each.values()]
    return {
        "instances": {
            each.id: {
                "name": _tag(each, "Name"),
                "state": each.state,
                "type": each.instance_type,
                "zone": each.availability_zone,
                "spot": each.lifecycle == "spot",
                "user_data": each.script,
                "tokens": each.metadata_options.http_tokens,
                "subnet": each.subnet_id,
                "public": bool(each.public_ip),
                "groups": _groups_of(each),
                "key": each.key_name or "",
                "password": each.password,
                "tags": [tag["key"] for tag in each.get_tags()],
            }
            for each in backend.all_instances()
        },
        "keys": list(backend.key_pairs),
        "groups": [group.name for group in groups if group.name != "default"],
        "lets_in": [
            f"{rule.cidr_ipv4} to {rule.from_port}"
            for group in groups
            for rule in group.ingress_rules
            if rule.cidr_ipv4
        ],
        "volumes": list(backend.volumes),
        "images": [each.id for each in backend.amis.values() if each.owner_id == OWNER],
        "snapshots": list(backend.snapshots),
    }


def _remove_everything() -> None:
    backend = _backend()
    for instance in backend.all_instances():
        instance.end("the end of a test")
    backend.key_pairs.clear()
    for volume in list(backend.volumes.values()):
        if volume.attachment is None:
            del backend.volumes[volume.id]
    for groups in backend.groups.values():
        for group in list(groups.values()):
            if group.name != "default":
                del groups[group.id]


def _tag(thing: Any, key: str) -> str:
    return next((str(tag["value"]) for tag in thing.get_tags() if tag["key"] == key), "")


# --- instances ----------------------------------------------------------------------------------


def instance_class(
    standin: Standin, folder: Path, images: dict[str, Path | None], prefixes: dict[str, Path]
) -> type[Any]:
    """moto's Instance, with a process behind it."""
    from moto.ec2.models import instances

    from tests.standins.ec2_machines import Machine, Order

    base: Any = instances.Instance
    block = f"127.{random.randrange(1, 255)}"
    numbers = iter(range(250, 250 * 250))

    class Instance(base):  # type: ignore[misc]
        __module__ = "moto.ec2.standin"  # moto reads the name of the service out of it.

        def __init__(self, backend: Any, image_id: str, data: Any, *more: Any, **rest: Any) -> None:
            super().__init__(backend, image_id, data, *more, **rest)
            self._state = instances.InstanceState("pending", 0)
            number = next(numbers)
            self.address = f"{block}.{number // 250}.{number % 250 + 1}"
            nic = self.nics[0]
            nic.public_ip_auto_assign = False
            given = [each.get("AssociatePublicIpAddress") for each in rest.get("nics") or ()]
            if False in given:  # Then its private address is the one that answers.
                nic.private_ip_address = self.address
                nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": self.address}]
            else:
                nic.public_ip = self.address
            self.script = base64.b64decode(str(data)).decode() if data else ""
            self.machine: Machine | None = None
            self.password = secrets.token_urlsafe(18) if image_id in prefixes else ""
            self.ending = ""
            self.stopped = False
            self.tells_at = time.monotonic() + PASSWORD_S
            threading.Thread(target=self._live, daemon=True).start()

        def _live(self) -> None:
            with standin.lock:  # Its tags come after it, in the same request.
                if self.ending:
                    return
                self.machine = Machine(self._order())
            time.sleep(PENDING_S)
            with standin.lock:
                if not self.ending:
                    self._state = instances.InstanceState("running", 16)
            powered_off = self.machine.wait()
            with standin.lock:
                if self.stopped or self.ending:
                    return
                if powered_off and self.instance_initiated_shutdown_behavior == "stop":
                    super().stop()
                else:
                    by_itself = "Client.InstanceInitiatedShutdown"
                    self.end(by_itself if powered_off else "Server.InternalError")

        def _order(self) -> Order:
            old = self.ec2_backend.amis[self.image_id].name.startswith("old")
            # Its cloud-init asks without a token, and is told nothing where one is required.
            told = not (old and self.metadata_options.http_tokens == "required")
            return Order(
                folder=folder / self.id,
                name=_tag(self, "Name"),
                address=self.address,
                port=PORT,
                public_key=self._key() if told else "",
                user_data=self.script if told else "",
                instance={
                    "instanceId": self.id,
                    "imageId": self.image_id,
                    "instanceType": self.instance_type,
                    "availabilityZone": self.availability_zone,
                    "region": REGION,
                    "keyName": self.key_name,
                },
                image=images.get(self.image_id),
                prefix=prefixes.get(self.image_id),
                password=self.password if self.key_name else "",
                old=old,
            )

        def password_data(self) -> str:
            """As AWS says it; empty as long as the machine has not told it."""
            from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
            from cryptography.hazmat.primitives.serialization import load_ssh_public_key

            if not self.key_name or time.monotonic() < self.tells_at:
                return ""
            key = load_ssh_public_key(self._key().encode())
            assert isinstance(key, RSAPublicKey), "AWS refuses another one for Windows"
            encrypted = key.encrypt(self.password.encode(), PKCS1v15())
            return f"\r\n{base64.b64encode(encrypted).decode()}\r\n"

        def _key(self) -> str:
            if not self.key_name:
                return ""
            pair = self.ec2_backend.key_pairs[self.key_name]
            return str(pair.material_public.decode())

        def terminate(self) -> Any:
            before = instances.InstanceState(self._state.name, self._state.code)
            self.end("Client.UserInitiatedShutdown")
            return before

        def stop(self) -> Any:
            self.stopped = True
            if self.machine is not None:
                self.machine.power_off()
            return super().stop()

        def end(self, code: str) -> None:
            """Begin its end, for this reason."""
            if not self.ending:
                self.ending = code
                self._state = instances.InstanceState(ENDING, 32)
                self.state_reason = instances.StateReason(f"{code}: it has ended", code)
                threading.Thread(target=self._finish, daemon=True).start()

        def _finish(self) -> None:
            if self.machine is not None:
                self.machine.kill()
                self.machine.remove()
            time.sleep(SHUTTING_DOWN_S)
            with standin.lock:
                reason = self.state_reason
                super().terminate()
                self.state_reason = reason

        def console(self) -> str:
            with contextlib.suppress(OSError, AttributeError):
                text: str = self.machine.console.read_text(errors="replace")  # type: ignore[union-attr]
                return text[-(64 << 10) :]
            return ""

    return Instance


def keep_disks(folder: Path, images: dict[str, Path | None]) -> None:
    """Let an image that is made of a machine, or of an image, hold its disk."""
    from moto.ec2.models import EC2Backend

    create, copy = EC2Backend.create_image, EC2Backend.copy_image

    def create_image(self: Any, instance_id: str, *more: Any, **rest: Any) -> Any:
        ami = create(self, instance_id, *more, **rest)
        ami.root_device_type = "ebs"
        instance = self.get_instance(instance_id)
        images[ami.id] = None
        if instance.machine.image is not None:
            images[ami.id] = folder / ami.id
            instance.machine.keep_disk(folder / ami.id)
        return ami

    def copy_image(self: Any, source_image_id: str, *more: Any, **rest: Any) -> Any:
        ami = copy(self, source_image_id, *more, **rest)
        ami.root_device_type = "ebs"
        images[ami.id] = images[source_image_id]
        return ami

    EC2Backend.create_image = create_image  # type: ignore[method-assign]
    EC2Backend.copy_image = copy_image  # type: ignore[method-assign]


def main() -> None:
    """Serve until the standard input closes."""
    import logging

    from moto.core.responses import ActionResult
    from moto.ec2.models import instances
    from moto.ec2.responses.general import General
    from moto.ec2.responses.windows import Windows
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from moto.ssm.models import ssm_backends
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    images: dict[str, Path | None] = {}
    prefixes: dict[str, Path] = {}
    standin = Standin(DomainDispatcherApplication(create_backend_app))
    made = instance_class(standin, Path(sys.argv[1]), images, prefixes)
    instances.Instance = made  # type: ignore[misc]

    def get_console_output(self: Any) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = base64.b64encode(instance.console().encode()).decode()
        return ActionResult({"InstanceId": instance.id, "Output": text})

    def get_password_data(self: Any) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        return ActionResult({"InstanceId": instance.id, "PasswordData": instance.password_data()})

    General.get_console_output = get_console_output  # type: ignore[method-assign]
    Windows.get_password_data = get_password_data  # type: ignore[method-assign]
    keep_disks(Path(sys.argv[1]), images)
    named: dict[str, Path | None] = dict.fromkeys(
        ("sshd-standin-1", "sshd-standin-2", "arm-1", "old-1")
    )
    disk, prefix = sys.argv[2:4]
    if disk:
        named["debian-12-standin"] = Path(disk)
    if prefix:
        named["windows-standin"] = None
    amis = {}
    for number, (name, image) in enumerate(named.items()):
        ami = _backend().register_image(name, "standin")
        ami.architecture = "arm64" if name.startswith("arm") else "x86_64"
        ami.root_device_name, ami.root_device_type = "/dev/xvda", "ebs"
        ami.creation_date = datetime.datetime(2026, 11, 1 + number, tzinfo=datetime.UTC)
        images[ami.id] = image
        amis[name] = ami.id
    if prefix:
        prefixes[amis["windows-standin"]] = Path(prefix)
    ssm_backends[OWNER][REGION].put_parameter(
        PARAMETER, "", amis["sshd-standin-1"], "String", "", "", True, [], "text", "Standard", ""
    )
    server = make_server("127.0.0.1", 0, standin, True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    said = {
        "endpoint": address,
        "ami": amis["sshd-standin-2"],
        "older_ami": amis["sshd-standin-1"],
        "arm_ami": amis["arm-1"],
        "old_ami": amis["old-1"],
        "machine_ami": amis.get("debian-12-standin", ""),
        "windows_ami": amis.get("windows-standin", ""),
    }
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    with standin.lock:
        for instance in _backend().all_instances():
            instance.ending = instance.ending or "the end"
            if instance.machine is not None:
                instance.machine.kill()


if __name__ == "__main__":
    main()
