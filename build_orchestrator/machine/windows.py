"""Batch files that let us log in to a Windows machine, and nobody else. Pure; no secret in them.

They are batch and no PowerShell, so that tests can run them: Wine has a cmd, and no PowerShell.
"""

from __future__ import annotations

BEGIN = "-----BEGIN SSH HOST KEY KEYS-----"
END = "-----END SSH HOST KEY KEYS-----"

LIMIT = """\
@echo off
rem Ends this machine at its limit, whatever becomes of whoever started it.
shutdown /s /f /t {seconds}

"""
FIREWALL = """\
netsh advfirewall firewall add rule name=build-orchestrator dir=in action=allow protocol=TCP localport={port} >nul
"""  # noqa: E501 (a line of cmd)

SSH = """\
rem OpenSSH is there from Server 2025 on, and a feature of Windows before that.
sc query sshd >nul 2>&1
if not "%ERRORLEVEL%"=="0" dism /online /quiet /norestart /add-capability /capabilityname:OpenSSH.Server~~~~0.0.1.0
set "PLACE=%ProgramData%\\ssh"
md "%PLACE%" 2>nul
echo {public_key}>"%PLACE%\\administrators_authorized_keys"
icacls "%PLACE%\\administrators_authorized_keys" /inheritance:r /grant *S-1-5-18:F /grant *S-1-5-32-544:F >nul
reg delete HKLM\\SOFTWARE\\OpenSSH /v DefaultShell /f >nul 2>&1
{firewall}sc config sshd start= auto >nul
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


# The name is another one at every start: an image may hold a certificate of a machine before it.
# What follows a digit and >> would be a number of cmd's, so each line begins with where it goes.
WINRM = """\
rem A certificate that this machine signs itself, with a key that never leaves it.
set "PLACE=%ProgramData%\\build-orchestrator"
md "%PLACE%" 2>nul
cd /d "%PLACE%"
del certificate.* >nul 2>&1
set "NAME=build-orchestrator-%RANDOM%-%RANDOM%"
>certificate.inf echo [Version]
>>certificate.inf echo Signature="$Windows NT$"
>>certificate.inf echo [NewRequest]
>>certificate.inf echo Subject="CN=%NAME%"
>>certificate.inf echo RequestType=Cert
>>certificate.inf echo MachineKeySet=true
>>certificate.inf echo ProviderName="Microsoft RSA SChannel Cryptographic Provider"
>>certificate.inf echo ProviderType=12
>>certificate.inf echo KeySpec=1
>>certificate.inf echo KeyLength=2048
>>certificate.inf echo KeyUsage=0xA0
>>certificate.inf echo HashAlgorithm=SHA256
>>certificate.inf echo ValidityPeriod=Days
>>certificate.inf echo ValidityPeriodUnits=365
>>certificate.inf echo [EnhancedKeyUsageExtension]
>>certificate.inf echo OID=1.3.6.1.5.5.7.3.1
certreq -new -q -f certificate.inf certificate.req >nul
certutil -f -store My %NAME% certificate.cer >nul
certutil -f -encode certificate.cer certificate.pem >nul
rem Windows finds it by its SHA-1, which certutil writes with spaces on older ones, and wants its name.
set HASH=
for /f "skip=1 delims=" %%h in ('certutil -hashfile certificate.cer SHA1') do if not defined HASH set "HASH=%%h"
set "HASH=%HASH: =%"
call winrm delete winrm/config/Listener?Address=*+Transport=HTTPS >nul 2>&1
call winrm create winrm/config/Listener?Address=*+Transport=HTTPS @{{Hostname="%NAME%";Port="{port}";CertificateThumbprint="%HASH%"}} >nul
rem A password over that connection, and as much memory and as many processes as a build wants.
call winrm set winrm/config/service/auth @{{Basic="true"}} >nul
call winrm set winrm/config/winrs @{{MaxMemoryPerShellMB="2147483647";MaxProcessesPerShell="2147483647"}} >nul
sc config winrm start= auto >nul
{firewall}net stop winrm >nul 2>&1
net start winrm >nul 2>&1
"""  # noqa: E501 (lines of cmd)

CERTIFICATE = """\
:keys
type "%PLACE%\\certificate.pem"
exit /b 0
"""
"""A subroutine that prints WinRM's certificate."""


def setup(limit_s: float, public_key: str, port: int) -> str:
    """Arm the limit, and have sshd listen for this key alone."""
    firewall = FIREWALL.format(port=port)
    return LIMIT.format(seconds=int(limit_s) + 1) + SSH.format(
        public_key=public_key, firewall=firewall
    )


def winrm_setup(limit_s: float, port: int) -> str:
    """Arm the limit, and have WinRM listen over HTTPS for who has a password."""
    firewall = FIREWALL.format(port=port)
    return LIMIT.format(seconds=int(limit_s) + 1) + WINRM.format(port=port, firewall=firewall)
