"""The reference page of targets.yaml, made from the same rows that read it.

``python -m build_orchestrator.configuration.reference > docs/reference/targets-yaml.md``
"""

from __future__ import annotations

from typing import Any

from build_orchestrator.configuration.loading import FILE
from build_orchestrator.configuration.rows import (
    BudgetRow,
    DeadlinesRow,
    DefaultsRow,
    DistroRow,
    FlavourRow,
    ImageRow,
    LaunchRow,
    OutputRow,
    RecipeRow,
    Rule,
    Shape,
    SizeRow,
    SshRow,
    TargetRow,
    TargetsFile,
    declared,
)
from build_orchestrator.configuration.words import SSH_OPTIONS, STAGES
from build_orchestrator.model import Deadlines, Size

_SECTIONS: tuple[tuple[str, type[Any], str], ...] = (
    ("The file", TargetsFile, ""),
    ("defaults", DefaultsRow, ""),
    (
        "distros.NAME",
        DistroRow,
        "Another architecture is a distro of its own, such as `debian_bookworm_arm64`.",
    ),
    (
        "distros.NAME.providers.NAME",
        TargetRow,
        (
            "A provider that needs nothing more is written as `fake:` alone.\n\n"
            "`options` of `fake`, to see what a failure looks like: at a stage\n"
            f"(`{'`, `'.join(STAGES)}`) the machine is lost with\n"
            "`fail_at`, and hangs until the stage's limit with `hang_at`; with\n"
            '`refuse_to_die: "true"` only `build sweep` destroys it; `boot_s` is how many seconds\n'
            "a boot takes. Of `libvirt`: `driver`, `kvm` or `qemu`."
        ),
    ),
    (
        "image",
        ImageRow,
        (
            "`kernel` and `initrd` each go together with their checksum.\n"
            "Vagrant's machines start from `bootstrap`, or from `box` with either its `version`\n"
            "or the `url` or `path` (and `sha256`) of the file that it is in."
        ),
    ),
    (
        "size",
        SizeRow,
        (
            "A machine of Vagrant's has its box's disk, unless its distro or target gives\n"
            "`disk_mib`; with another provider than `libvirt` that takes Vagrant 2.4 or newer."
        ),
    ),
    (
        "launch",
        LaunchRow,
        "For `aws`. What a target leaves out is taken from `defaults.launch`.",
    ),
    (
        "budget",
        BudgetRow,
        "An estimate is made from list prices: see [Build on AWS](../how-to/aws.md#what-it-costs).",
    ),
    ("deadlines", DeadlinesRow, ""),
    (
        "ssh",
        SshRow,
        f"""Algorithms only: `{"`, `".join(SSH_OPTIONS)}`. `PubkeyAcceptedKeyTypes` is what OpenSSH
before 8.5 calls `PubkeyAcceptedAlgorithms`, and later ones know it, too.""",
    ),
    (
        "flavours.NAME",
        FlavourRow,
        "What it is for: [bake images](../how-to/bake-images.md).",
    ),
    (
        "recipes.NAME",
        RecipeRow,
        (
            "Paths are inside the project and must exist. The tool itself gives `BUILD`,\n"
            "`VERSION`, `PRERELEASE`, `SOURCE_DATE_EPOCH` and all that begins with `BUILD_`."
        ),
    ),
    (
        "recipes.NAME.outputs[]",
        OutputRow,
        (
            "`{version}` becomes `_VERSION[-PRERELEASE][-bBUILD]`, or nothing without VERSION;\n"
            "another architecture than x86_64 is added to `{release}`;\n"
            "`/`, `\\` and space become `-`."
        ),
    ),
)

_PREFACE = f"""# {FILE}

<!-- Made by `python -m build_orchestrator.configuration.reference`; a test sees it drift. -->

What a project builds (recipes), on what (distros), and where the machines come from (providers).
A distro on a provider is a *target*: `debian_bookworm` on `qemu` is `debian_bookworm_qemu`.

The file is read strictly. Everything that is wrong is reported at once, as
`file:line:column: key: what is wrong`, and nothing starts (exit 2). Text that YAML would take for
a number, a date or a truth value must be quoted: `release: "22.10"`. Anchors, aliases and `<<`
work.

The keys of a target's `size` and `deadlines` are taken, one by one, from the target itself, else
from its distro, else from `defaults`, else from this tool.
"""


_OWN: dict[type[Any], Any] = {SizeRow: Size(), DeadlinesRow: Deadlines()}
"""What the tool itself says where nothing in the file does."""


def text() -> str:
    """The page as it is committed."""
    parts = [_PREFACE]
    for title, row, note in _SECTIONS:
        parts.append(f"## {title}\n\n{(row.__doc__ or '').strip()}\n\n{_table(row)}")
        if note:
            parts.append(f"{note}\n")
    return "\n".join(parts)


def _table(row: type[Any]) -> str:
    lines = ["| key | value | when left out | |", "|---|---|---|---|"]
    for name, each in declared(row).items():
        left_out = (
            "**required**" if each.required else _shown(getattr(_OWN.get(row), name, each.default))
        )
        if each.rule.without:
            left_out = each.rule.without
        kind = _kind(each.shape, each.rule)
        lines.append(f"| `{name}` | {kind} | {left_out} | {each.rule.about} |")
    return "\n".join(lines) + "\n"


def _kind(shape: Shape, rule: Rule) -> str:
    if shape.kind == "row":
        return "mapping, see below"
    if shape.item is not None:
        inside = _kind(shape.item, rule)
        return f"list of: {inside}" if shape.kind == "list" else f"name -> {inside}"
    if rule.choices:
        return ", ".join(f"`{each}`" for each in rule.choices)
    if rule.minimum is not None and rule.maximum is not None:
        return f"{shape.kind}, {rule.minimum:.15g} to {rule.maximum:.15g}"
    return rule.wanted or {"switch": "true or false"}.get(shape.kind, shape.kind)


def _shown(default: Any) -> str:
    if default in (None, "", (), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(f"`{each}`" for each in default)
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    import sys

    sys.stdout.write(text())
