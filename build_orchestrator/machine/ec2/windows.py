"""What a Windows machine of AWS runs at its first start. Pure; holds no secret.

EC2Launch (both generations) runs it as an administrator. For ssh, the key that may log in comes
with it and not as a key pair of AWS: that would have to be RSA, and lets whoever has it ask for a
password. WinRM wants a password, so there it is just that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from build_orchestrator.machine.windows import CERTIFICATE, KEYS, setup, winrm_setup

# AWS shows what is written to the serial port: that is how host keys and certificate become known.
# EC2Launch writes there, too, and only one may have it open.
USER_DATA = """\
<script>
{setup}
mode COM1: baud=115200 parity=n data=8 stop=1 >nul 2>&1
set TRIES=0
:say
call :keys >COM1 && exit /b 0
set /a TRIES+=1
ping -n 3 127.0.0.1 >nul
if %TRIES% LSS 60 goto say
exit /b 1
{keys}</script>
"""


PEM = re.compile("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def user_data(limit_s: float, public_key: str, port: int) -> str:
    """A timer that ends the machine without us, sshd for this key alone, and its host keys on the
    console."""
    return USER_DATA.format(setup=setup(limit_s, public_key, port), keys=KEYS)


def winrm_user_data(limit_s: float, port: int) -> str:
    """A timer that ends the machine without us, WinRM over HTTPS, and its certificate on the
    console."""
    return USER_DATA.format(setup=winrm_setup(limit_s, port), keys=CERTIFICATE)


def certificate(console: str) -> str:
    """The SHA-256 of the certificate that a machine has printed; the last one counts. Empty where
    there is none that is whole."""
    blocks = PEM.findall(console)
    try:
        content = base64.b64decode("".join(blocks[-1].split()), validate=True) if blocks else b""
    except binascii.Error:
        content = b""
    return hashlib.sha256(content).hexdigest() if content else ""
