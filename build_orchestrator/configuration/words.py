"""What output names, destinations, images and ssh options may say, as functions of text alone.

Each returns what is wrong, in words, or nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from build_orchestrator.configuration.findings import did_you_mean

PLACEHOLDERS = ("distribution", "release", "version", "target", "distro")
"""What an output's name may hold in braces."""

SIDECARS = (".sha256", ".md5", ".sbom.json", ".provenance.json")
"""Endings of the files that lie beside an artifact."""

LONGEST_NAME_BYTES = 200
LONGEST_NAMING = LONGEST_NAME_BYTES // 2
"""File systems take 255, of which the files beside it and those being written need some."""

SCHEMES = ("s3",)
"""Destinations that are not folders."""

RESERVED_PREFIXES = ("BUILD_", "MACHINE_")
RESERVED = ("BUILD", "VERSION", "PRERELEASE", "SOURCE_DATE_EPOCH")
"""Variables that the tool itself gives to the script (all of those prefixes too)."""

RUN_FILES = frozenset({
    "log.txt", "console.txt", "environment.sh", "launch.json", "machine.sh", "packerfile.json",
    "partial",
    "user-data.sh", "Vagrantfile",
})  # fmt: skip
"""What lies beside the artifacts in ``runs/<run id>/<target>/``."""

FOLDERS = frozenset({"dev", "keys", "latest", "latest.txt"})
"""What lies beside the folders of versions at a destination; no VERSION may be called like it."""

TAKEN_FOR_PACKERS = "holds {{, which Packer takes for its own words, however it is quoted"

STAGES = ("boot", "transfer", "provision", "collect", "destroy")

OPTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "fake": {
        "fail_at": STAGES,
        "hang_at": STAGES,
        "refuse_to_die": ("true", "false"),
        "boot_s": (),
    },
    "libvirt": {"driver": ("kvm", "qemu")},
    "aws": {},
    "qemu": {},
    "virtualbox": {},
}
"""Provider -> its options -> what each can be; nothing means a number of seconds."""

SSH_OPTIONS = (
    "CASignatureAlgorithms",
    "Ciphers",
    "HostKeyAlgorithms",
    "KexAlgorithms",
    "MACs",
    "PubkeyAcceptedAlgorithms",
    "PubkeyAcceptedKeyTypes",
    "RequiredRSASize",
)
"""Algorithms only: nothing here can undo the pinning of host keys. PubkeyAcceptedKeyTypes is what
OpenSSH before 8.5 calls the one above it; later ones know both names."""


def output_name_problem(name: str) -> str:
    """What is wrong with an output's name."""
    for inside in re.findall("{([^{}]*)}", name):
        if inside not in PLACEHOLDERS:
            return f"unknown placeholder {{{inside}}}{did_you_mean(inside, PLACEHOLDERS)}"
    bare = re.sub("{[^{}]*}", "x", name)
    if "{" in bare or "}" in bare:
        return "a brace without its partner"
    if "/" in bare or "\\" in bare:
        return "is a file name, so it must not hold / or \\"
    if bare.startswith((".", "-")):
        return f"must not begin with {bare[0]}"
    if not bare.isprintable():
        return "holds a character that cannot be printed"
    if bare in RUN_FILES:
        return "is a file that the tool itself keeps in the run folder"
    return _sidecar_problem(name)


def _sidecar_problem(name: str) -> str:
    for ending in SIDECARS:
        if name.endswith(ending):
            return f"ends in {ending}, which belongs to the files beside an artifact"
    return ""


def final_name_problem(name: str) -> str:
    """What is wrong with an output's name once its placeholders are filled in."""
    if not name:
        return "is empty"
    if name.startswith((".", "-")):
        return f"begins with {name[0]}"
    if name in RUN_FILES:
        return "is a file that the tool itself keeps in the run folder"
    if len(name.encode(errors="replace")) > LONGEST_NAME_BYTES:
        return f"has more than {LONGEST_NAME_BYTES} bytes"
    return _sidecar_problem(name)


def is_text(value: str) -> bool:
    """Whether a value can be a variable's: no NUL, and no byte that was not UTF-8."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def members_problem(name: str, members: str) -> str:
    """What is wrong with the folder that an output's members must lie under."""
    if not name.endswith(".tar.gz"):
        return "only a .tar.gz has members"
    if {".", ".."} & set(members.split("/")):
        return "must not hold . or .."
    return ""


def destination_problem(destination: str) -> str:
    """What is wrong with a destination: a folder, or ``s3://bucket/prefix``."""
    if not destination:
        return "is empty; give a folder or s3://bucket/prefix"
    if not destination.isprintable():
        return "holds a character that cannot be printed"
    scheme = re.match("([A-Za-z][A-Za-z0-9+.-]+):", destination)
    if scheme is None:
        return ""
    if scheme[1] == "file":
        return "a folder is written without file:"
    if scheme[1] not in SCHEMES:
        return f"unknown scheme {scheme[1]}{did_you_mean(scheme[1], SCHEMES)}"
    if not re.fullmatch("s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", destination):
        return "is not of the form s3://bucket/prefix (bucket: 3 to 63 of a-z, 0-9, . and -)"
    return ""


def same_destination(destination: str) -> str:
    """A destination in the one way of writing it, to see that two are the same place."""
    if ":" in destination:
        return destination.rstrip("/")
    return posixpath.normpath(destination)


def variable_problem(name: str) -> str:
    """What is wrong with giving the script a variable of this name."""
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        return "is given to the script by the tool itself"
    return ""


def address_problem(address: str) -> str:
    """What is wrong with where an image, its kernel or a box is fetched from."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@", address):
        return (
            "holds a user or password, which everybody would be shown; take a server that asks "
            "for none, or fetch the file yourself and give its path"
        )
    return ""


def packer_problem(address: str) -> str:
    """What is wrong with where a disk is fetched from as a value of one of Packer's variables."""
    if "{{" not in address:
        return ""
    way = "in an address they can be written %7B%7B" if "://" in address else "rename the file"
    return f"{TAKEN_FOR_PACKERS}; {way}"


def value_problem(value: str) -> str:
    """What is wrong with giving the script a variable of this value."""
    if re.search("://[^/?#@\\s]*:[^/?#@\\s]*@", value):
        return "holds a password, which everybody would be shown; export it, and name it in secrets"
    return ""


def option_problem(provider: str, name: str, value: str) -> str:
    """What is wrong with an option that only one provider understands."""
    known = OPTIONS.get(provider)
    if known is None:
        return ""
    if name not in known:
        nearest = did_you_mean(name, known) or f"; {provider} has no options"
        return f"unknown option {name}{nearest}"
    if known[name]:
        return (
            ""
            if value in known[name]
            else f"unknown value {value}{did_you_mean(value, known[name])}"
        )
    return (
        "" if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value) else f"{value!r} is no number of seconds"
    )


def ssh_option_problem(option: str) -> str:
    """What is wrong with an ssh option of a distro."""
    key, equals, value = option.partition("=")
    if not equals or not value.strip() or not option.isprintable():
        return "is not of the form Key=value"
    if key not in SSH_OPTIONS:
        return f"{key} is not an algorithm{did_you_mean(key, SSH_OPTIONS)}"
    return ""


def range_problem(text: str) -> str:
    """What is wrong with a range of addresses."""
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"is not a range of addresses: {error}"
    return ""
