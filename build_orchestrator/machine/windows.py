"""A batch file that lets us log in to a Windows machine over ssh, and nobody else. Pure.

It is batch and no PowerShell, so that tests can run it: Wine has a cmd, and no PowerShell.
"""

from __future__ import annotations

BEGIN = "-----BEGIN SSH HOST KEY KEYS-----"
END = "-----END SSH HOST KEY KEYS-----"

SETUP = """\
@echo off
rem Ends this machine at its limit, whatever becomes of whoever started it.
shutdown /s /f /t {seconds}

rem OpenSSH is there from Server 2025 on, and a feature of Windows before that.
sc query sshd >nul 2>&1
if not "%ERRORLEVEL%"=="0" dism /online /quiet /norestart /add-capability /capabilityname:OpenSSH.Server~~~~0.0.1.0
set "PLACE=%ProgramData%\\ssh"
md "%PLACE%" 2>nul
echo {public_key}>"%PLACE%\\administrators_authorized_keys"
icacls "%PLACE%\\administrators_authorized_keys" /inheritance:r /grant *S-1-5-18:F /grant *S-1-5-32-544:F >nul
reg delete HKLM\\SOFTWARE\\OpenSSH /v DefaultShell /f >nul 2>&1
netsh advfirewall firewall add rule name=build-orchestrator dir=in action=allow protocol=TCP localport={port} >nul
sc config sshd start= auto >nul
net start sshd >nul 2>&1
rem It makes its host keys when it first starts, and this one last.
set TRIES=0
:wait
if exist "%PLACE%\\ssh_host_ed25519_key.pub" goto started
set /a TRIES+=1
ping -n 2 127.0.0.1 >nul
if %TRIES% LSS 120 goto wait
:started
"""  # noqa: E501 (lines of cmd)

KEYS = f"""\
:keys
echo {BEGIN}
for %%f in (%ProgramData%\\ssh\\ssh_host_*_key.pub) do type %%f
echo {END}
exit /b 0
"""
"""A subroutine that prints the host keys."""


def setup(limit_s: float, public_key: str, port: int) -> str:
    """Arm the limit, and have sshd listen for this key alone."""
    return SETUP.format(seconds=int(limit_s) + 1, public_key=public_key, port=port)
