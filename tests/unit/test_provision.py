"""What a script is told: its variables, its secrets, and what the host trusts."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from build_orchestrator.errors import HostNotReady
from build_orchestrator.masking import Masker
from build_orchestrator.model import (
    Build,
    Deadlines,
    Distro,
    ImageSource,
    Naming,
    Recipe,
    Size,
    Target,
)
from build_orchestrator.provision import (
    gather_inputs,
    host_trust,
    provision_script,
    read_secrets,
)


def recipe_of(*secrets: str) -> Recipe:
    """A recipe whose script prints its environment."""
    return Recipe(
        name="small",
        script="make.sh",
        inputs=(),
        outputs=(),
        destinations=(),
        secrets=secrets,
    )


def build_of(**environment: str) -> Build:
    """A build with these variables."""
    target = Target(
        name="d_fake",
        distro=Distro(name="d", distribution="D", release="1"),
        provider="fake",
        image=ImageSource(),
        size=Size(),
        deadlines=Deadlines(),
    )
    return Build(
        target=target,
        recipe=recipe_of("TOKEN"),
        naming=Naming(),
        outputs=(),
        environment=environment,
    )


def seen_by_script(script: bytes, root: Path) -> dict[str, str]:
    """The environment that the script finds when a shell reads ours on its standard input."""
    inputs = root / "var/lib/build-orchestrator/inputs"
    inputs.mkdir(parents=True)
    (inputs / "make.sh").write_text("env -0\n")
    done = subprocess.run(
        ["sh", "-s"],
        input=script,
        env={"MACHINE_ROOT": str(root), "PATH": "/usr/bin:/bin", "STRAY": "a\nBOGUS=b"},
        capture_output=True,
        check=True,
    )
    pairs = (line.partition("=") for line in done.stdout.decode().split("\0")[:-1])
    return {name: value for name, _, value in pairs}


def test_a_script_sees_the_named_variables_and_no_others(tmp_path: Path) -> None:
    """Whatever a value holds arrives as it is, and nothing of the login's environment does."""
    odd = 'it\'s "quoted" $HOME `x`\nsecond line'
    script = provision_script(build_of(VERSION="1", ODD=odd), {"TOKEN": "s3cret'"})

    seen = seen_by_script(script, tmp_path)

    assert seen["ODD"] == odd
    assert seen["TOKEN"] == "s3cret'"
    made_by_shells = {"PWD", "OLDPWD", "SHLVL", "_", "MACHINE_ROOT"}
    assert set(seen) - made_by_shells == {
        *("PATH", "HOME", "LANG", "VERSION", "ODD", "TOKEN", "BUILD_INPUTS", "BUILD_OUTPUT"),
    }
    assert Path(seen["BUILD_OUTPUT"]).is_dir()


def test_the_hosts_ca_bundle_lies_in_memory_and_is_named_for_every_tool(tmp_path: Path) -> None:
    """It is written below /run, which is gone with the machine's memory."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    environ = {"SSL_CERT_FILE": str(bundle)}
    shown, secret = host_trust(environ)
    assert (shown["CA_BUNDLE"], secret) == (str(bundle), {})
    build = Build(
        target=build_of().target,
        recipe=recipe_of(),
        naming=Naming(),
        outputs=(),
        environment={},
        host_trust=shown,
    )

    seen = seen_by_script(provision_script(build, {}), tmp_path / "machine")

    place = str(tmp_path / "machine/run/build-orchestrator-ca.pem")
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    assert {seen[name] for name in names} == {place}
    assert Path(place).read_text() == bundle.read_text()


def test_addresses_with_credentials_travel_as_secrets() -> None:
    """The plan shows that there is a proxy, and not its password."""
    proxy = "http://me:pass@proxy.example:3128"
    shown, secret = host_trust({"https_proxy": proxy, "no_proxy": "localhost"})

    assert secret == {"https_proxy": proxy}
    assert (shown["https_proxy"], shown["no_proxy"]) == ("***", "localhost")


def test_pips_settings_come_from_its_files_without_folders_of_this_host(tmp_path: Path) -> None:
    """What only this host can read would only be in a machine's way."""
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://index.example/simple\n"
        "extra-index-url = file:///srv/wheels https://more.example/simple\n"
    )

    shown, _ = host_trust({"PIP_CONFIG_FILE": str(file)})

    assert shown["PIP_INDEX_URL"] == "https://index.example/simple"
    assert shown["PIP_EXTRA_INDEX_URL"] == "https://more.example/simple"


def test_a_query_may_hold_a_token() -> None:
    """Some package indexes take it there; whoever prints a piece of the address shows nothing."""
    index = "https://a.example/simple?token=querysecret"
    shown, secret = host_trust({"PIP_EXTRA_INDEX_URL": f"{index} https://b.example/s"})
    assert shown["PIP_EXTRA_INDEX_URL"] == "***"
    mask = Masker(secret.values()).mask
    assert mask(f"Looking in {index}") == "Looking in ***"
    assert mask("401 for token=querysecret/numpy") == "401 for ***/numpy"


def test_secrets_come_from_variables_or_files(tmp_path: Path) -> None:
    """A missing one is told by name, before anything starts."""
    (tmp_path / "token").write_text("from a file")
    recipe = recipe_of("TOKEN", f"OTHER={tmp_path / 'token'}")

    assert read_secrets(recipe, {"TOKEN": "x"}) == {"TOKEN": "x", "OTHER": "from a file"}
    with pytest.raises(HostNotReady, match="the secret TOKEN is not there"):
        read_secrets(recipe, {})


@pytest.mark.parametrize(
    "printed",
    [
        "user:hunter22@proxy:3128",
        "hunter22",
        "https://u:hunter55@b/s/",
        "https://u:hunter55@b/s",
        "https://t0ken66@c/s",
        "u:hunter55",
        "hunter55",
        "t0ken66",
    ],
)
def test_no_part_of_the_hosts_credentials_is_shown(printed: str) -> None:
    """Not in the plan, and not in a log of a script that takes the value apart."""
    indexes = "https://a.example/s https://u:hunter55@b/s/ https://t0ken66@c/s"
    proxy = "user:hunter22@proxy:3128"
    shown, secret = host_trust({"http_proxy": proxy, "PIP_EXTRA_INDEX_URL": indexes})

    assert shown == {**shown, "http_proxy": "***", "PIP_EXTRA_INDEX_URL": "***"}
    assert secret == {"http_proxy": proxy, "PIP_EXTRA_INDEX_URL": indexes}
    assert Masker(secret.values()).mask(f"<{printed}>") == "<***>"
    assert Masker(secret.values()).mask("https://a.example/s") == "https://a.example/s"


@pytest.mark.parametrize("inputs", [("a/b/x.txt", "a/", "a/l"), ("a/l", "a", "./a/b")])
def test_inputs_that_lie_in_one_another_all_arrive(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    """Whatever their order; a link that is named arrives as what it means."""
    project = tmp_path / "project"
    (project / "a/b").mkdir(parents=True)
    for name in ("make.sh", "a/b/x.txt", "a/y.txt", "outside"):
        (project / name).write_text(name)
    (project / "a/b/x.txt").chmod(0o444)
    (project / "a/l").symlink_to("../outside")
    recipe = dataclasses.replace(recipe_of(), inputs=inputs)

    gather_inputs(dataclasses.replace(build_of(), recipe=recipe), project, tmp_path / "into")

    found = (each for each in (tmp_path / "into").rglob("*") if each.is_file())
    texts = {str(each.relative_to(tmp_path / "into")): each.read_text() for each in found}
    same = {name: name for name in ("make.sh", "a/b/x.txt", "a/y.txt")}
    assert texts == same | {"a/l": "outside"}


def test_a_ca_bundle_may_hold_any_bytes(tmp_path: Path) -> None:
    """Comments in bundles are often Latin-1."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"# Autorit\xe9\n")
    build = dataclasses.replace(build_of(), host_trust={"CA_BUNDLE": str(bundle)})

    seen = seen_by_script(provision_script(build, {}), tmp_path / "machine")

    assert Path(seen["SSL_CERT_FILE"]).read_bytes() == bundle.read_bytes()


def test_a_secret_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    """It could be neither a variable nor masked."""
    (tmp_path / "token").write_bytes(b"abc\xffdef")
    recipe = recipe_of(f"TOKEN={tmp_path / 'token'}")
    with pytest.raises(HostNotReady, match="the secret TOKEN is not text"):
        read_secrets(recipe, {})
    with pytest.raises(HostNotReady, match="the secret TOKEN is not text"):
        read_secrets(recipe_of("TOKEN"), {"TOKEN": "abc\udcff"})


def test_what_is_set_wins_over_the_hosts_trust(tmp_path: Path) -> None:
    """Also where the host's value travels as a secret; a recipe's own secret wins over both."""
    build = dataclasses.replace(
        build_of(PIP_INDEX_URL="mine", TOKEN="plain"),
        host_trust={"PIP_INDEX_URL": "***", "http_proxy": "***"},
    )
    secrets = {"PIP_INDEX_URL": "theirs", "http_proxy": "u:pass@p:1", "TOKEN": "own"}

    seen = seen_by_script(provision_script(build, secrets), tmp_path)

    names = ("PIP_INDEX_URL", "http_proxy", "TOKEN")
    assert [seen[name] for name in names] == ["mine", "u:pass@p:1", "own"]
