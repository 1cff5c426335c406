"""The password that a Windows machine gave its administrator at its first start.

The machine encrypts it with the key pair that it was launched with, so AWS cannot read it. It is
kept in memory alone.
"""

from __future__ import annotations

import base64
from pathlib import Path

from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.machine.ec2.api import Api


def of_administrator(api: Api, instance_id: str, key: Path) -> str:
    """The password; empty as long as the machine has not told it, which takes it minutes.

    Args:
        key: the private half of its key pair, RSA.

    Raises:
        EnvironmentFailure: it was encrypted for another key.
        BotoCoreError, ClientError: AWS does not say.
    """
    answer = api.ec2.get_password_data(InstanceId=instance_id)
    encrypted = base64.b64decode(str(answer.get("PasswordData") or "").strip())
    return _decrypted(encrypted, key) if encrypted else ""


def _decrypted(encrypted: bytes, key: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    private = load_ssh_private_key(key.read_bytes(), password=None)
    assert isinstance(private, RSAPrivateKey), "AWS has no other for Windows"
    try:
        return private.decrypt(encrypted, PKCS1v15()).decode("ascii")
    except ValueError as error:  # Its message would say nothing more.
        raise EnvironmentFailure(
            "the machine's password was encrypted for another key than this run's"
        ) from error
