"""A plan is decided before anything boots, is frozen data, and publishes nothing twice."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_orchestrator.configuration import Configuration
from build_orchestrator.errors import UsageError
from build_orchestrator.model import (
    Build,
    Deadlines,
    Distro,
    Image,
    ImageSource,
    Input,
    Naming,
    Output,
    Plan,
    Recipe,
    Size,
    Target,
)
from build_orchestrator.plan import (
    decode,
    encode,
    folder_of,
    freeze,
    key_of,
    make_plan,
    output_name,
    select,
)
from build_orchestrator.render import environment_file

AGENT = "{distribution}-{release}-agent{version}.tar.gz"


def target(distro: str, provider: str, **fields: Any) -> Target:
    distribution, _, release = distro.partition("_")
    known = {"name": distro, "distribution": distribution.capitalize(), "release": release}
    return Target(
        name=f"{distro}_{provider}",
        distro=Distro(**(known | fields)),
        provider=provider,
        image=ImageSource(),
        size=Size(),
        deadlines=Deadlines(),
    )


def recipe(*outputs: str, **fields: Any) -> Recipe:
    known: dict[str, Any] = {"name": "agent", "destinations": ("dist/",), "inputs": ()}
    names = tuple(Output(name=name) for name in outputs or (AGENT,))
    return Recipe(script="provision.sh", outputs=names, **(known | fields))


TARGETS = (
    target("debian_bookworm", "qemu"),
    target("debian_bookworm", "aws"),
    target("debian_bookworm_arm64", "aws", release="bookworm", arch="arm64"),
    target("debian_trixie", "fake"),
    target("debian_trixie", "qemu"),
    target("ubuntu_noble", "fake"),
)


def configuration(
    *targets: Target, default_provider: str = "qemu", recipes: tuple[Recipe, ...] = ()
) -> Configuration:
    targets = targets or TARGETS
    return Configuration(
        project=Path("/project"),
        distros={each.distro.name: each.distro for each in targets},
        targets={each.name: each for each in targets},
        recipes={each.name: each for each in recipes or (recipe(),)},
        default_recipe="agent",
        default_provider=default_provider,
    )


def plan_of(*selectors: str, of: Configuration | None = None, **fields: Any) -> Plan:
    known: dict[str, Any] = {
        "run_id": "20261121T014500Z-3f9c",
        "run_uuid": "0" * 32,
        "created_at": "2026-11-21T01:45:00Z",
        "jobs": 2,
    }
    return make_plan(of or configuration(), selectors or ("*",), **(known | fields))


def names(*selectors: str, **fields: Any) -> list[str]:
    return [each.name for each in select(configuration(**fields), selectors)]


# --- which targets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["debian_bookworm"], ["debian_bookworm_qemu"]),
        (["debian_*"], ["debian_bookworm_qemu", "debian_trixie_qemu"]),
        (["*"], ["debian_bookworm_qemu", "debian_trixie_qemu"]),
        (["debian_trixie_fake"], ["debian_trixie_fake"]),
        (["*_fake"], ["debian_trixie_fake", "ubuntu_noble_fake"]),
        (["*fake"], ["debian_trixie_fake", "ubuntu_noble_fake"]),
        (["debian_bookworm_aws"], ["debian_bookworm_aws"]),
        (["*_aws"], ["debian_bookworm_aws", "debian_bookworm_arm64_aws"]),
        (["debian_[bt]*"], ["debian_bookworm_qemu", "debian_trixie_qemu"]),
        (["debian_trixie", "debian_*"], ["debian_bookworm_qemu", "debian_trixie_qemu"]),
        (["ubuntu_noble_fake", "debian_trixie"], ["debian_trixie_qemu", "ubuntu_noble_fake"]),
    ],
)
def test_selectors_mean_targets_in_the_order_of_the_file(
    selectors: list[str], expected: list[str]
) -> None:
    """Without a provider the default one is meant, each target comes once."""
    assert names(*selectors) == expected


def test_what_costs_money_must_be_named() -> None:
    """Even where aws is the default provider, no plain glob starts machines there."""
    assert names("debian_bookworm", default_provider="aws") == ["debian_bookworm_aws"]
    with pytest.raises(UsageError, match=r"nothing that costs money.*debian_bookworm_aws"):
        names("debian_*", default_provider="aws")


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("debian_bookwrom", "did you mean debian_bookworm?"),
        ("debian_trixie_qmeu", "did you mean debian_trixie_qemu?"),
        ("ubuntu_noble", "means qemu only.*there is ubuntu_noble_fake"),
        ("Debian_*", "Debian_*"),
        ("debian_trixie_aws", "debian_trixie_aws"),
    ],
)
def test_a_selector_that_means_nothing_is_told(selector: str, words: str) -> None:
    """The nearest names stand in the message, and a second selector does not hide it."""
    with pytest.raises(UsageError, match=words):
        names("debian_trixie", selector)


def test_no_selector_lists_the_targets() -> None:
    """Who names nothing learns what there is."""
    with pytest.raises(UsageError, match="debian_bookworm_qemu, debian_bookworm_aws"):
        names()


# --- names and folders --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("naming", "expected", "folder"),
    [
        (Naming(), "Debian-bookworm-agent.tar.gz", ""),
        (Naming(prerelease="rc1", build="7"), "Debian-bookworm-agent.tar.gz", ""),
        (Naming(version="7.0"), "Debian-bookworm-agent_7.0.tar.gz", "7.0/build"),
        (Naming(version="7.0", build="7"), "Debian-bookworm-agent_7.0-b7.tar.gz", "7.0/build"),
        (
            Naming(version="7.0", prerelease="rc1"),
            "Debian-bookworm-agent_7.0-rc1.tar.gz",
            "7.0/rc1-build",
        ),
        (
            Naming(version="7.0", prerelease="rc1", build="7"),
            "Debian-bookworm-agent_7.0-rc1-b7.tar.gz",
            "7.0/rc1-build",
        ),
        (
            Naming(version="7/0", prerelease="my rc"),
            "Debian-bookworm-agent_7-0-my-rc.tar.gz",
            "7-0/my-rc-build",
        ),
    ],
)
def test_names_and_folders_follow_the_rule(naming: Naming, expected: str, folder: str) -> None:
    """VERSION, PRERELEASE and BUILD name artifacts; without VERSION the other two do nothing."""
    build = plan_of("debian_bookworm", naming=naming).builds[0]
    assert (build.outputs[0].name, build.folder) == (expected, folder)


def test_another_architecture_is_part_of_the_release() -> None:
    """Two architectures of one release never share a name."""
    arm = plan_of("debian_bookworm_arm64_aws").builds[0]
    assert arm.outputs[0].name == "Debian-bookworm-arm64-agent.tar.gz"


def test_names_are_safe() -> None:
    """What would be a folder or two words becomes a dash."""
    redhat = target("redhat_8", "qemu", distribution="Red Hat", release="8/x\\y")
    assert output_name(AGENT, redhat, Naming()) == "Red-Hat-8-x-y-agent.tar.gz"
    assert output_name("{target}.{distro}", redhat, Naming()) == "redhat_8_qemu.redhat_8"


def test_a_build_without_version_goes_to_a_folder_of_its_key() -> None:
    """The folder is known as soon as the key is."""
    assert folder_of(Naming(), "0123456789abcdef") == "dev/0123456789ab"
    assert folder_of(Naming(version="1"), "0123456789abcdef") == "1/build"


@pytest.mark.parametrize("version", ["..", ".hidden", "7\x1b[1m"])
def test_a_version_that_cannot_name_a_file_is_refused(version: str) -> None:
    """No artifact leaves its folder because of a variable."""
    with pytest.raises(UsageError, match="VERSION="):
        plan_of(naming=Naming(version=version))


def test_two_builds_with_one_name_are_refused() -> None:
    """Both targets are named before anything boots; without VERSION their folders differ."""
    both = ("debian_bookworm_qemu", "debian_bookworm_aws")
    assert len(plan_of(*both).builds) == 2
    expected = (
        "dist/7.0/build/Debian-bookworm-agent_7.0.tar.gz: debian_bookworm_qemu and "
        "debian_bookworm_aws"
    )
    with pytest.raises(UsageError) as caught:
        plan_of(*both, naming=Naming(version="7.0"))
    assert caught.value.details == expected
    named = recipe("{target}{version}")
    assert plan_of(*both, naming=Naming(version="7.0"), of=configuration(recipes=(named,)))
    assert plan_of(*both, naming=Naming(version="7.0"), no_publish=True)


def test_two_outputs_with_one_name_are_refused() -> None:
    """Within one build names must differ too, published or not."""
    of = configuration(recipes=(recipe("{distro}", "debian_bookworm"),))
    with pytest.raises(UsageError, match="debian_bookworm_qemu and debian_bookworm_qemu"):
        plan_of("debian_bookworm", of=of, no_publish=True)


# --- variables and options ----------------------------------------------------------------------


def test_the_script_gets_only_the_named_variables() -> None:
    """Target, distro, run, epoch, what the recipe says, and nothing of the host's."""
    of = configuration(recipes=(recipe(environment={"A": "recipe", "B": "recipe"}),))
    build = plan_of(
        "debian_bookworm", of=of, settings={"B": "set"}, naming=Naming(version="7", build="1")
    ).builds[0]
    assert build.environment == {
        "BUILD_TARGET": "debian_bookworm_qemu",
        "BUILD_DISTRO": "debian_bookworm",
        "BUILD_RUN_ID": "20261121T014500Z-3f9c",
        "SOURCE_DATE_EPOCH": "1704067200",
        "VERSION": "7",
        "BUILD": "1",
        "A": "recipe",
        "B": "set",
    }


def test_settings_win_over_exported_names() -> None:
    """``--set VERSION=8`` names the artifacts, whatever is exported."""
    build = plan_of("debian_bookworm", naming=Naming(version="7"), settings={"VERSION": "8"})
    assert build.builds[0].naming == Naming(version="8")
    assert build.builds[0].folder == "8/build"


def test_an_empty_setting_unsets_a_name() -> None:
    """``--set VERSION=`` is a build without a version, for names and for the script."""
    build = plan_of("debian_bookworm", naming=Naming(version="7"), settings={"VERSION": ""})
    assert build.builds[0].outputs[0].name == "Debian-bookworm-agent.tar.gz"
    assert "VERSION" not in build.builds[0].environment


@pytest.mark.parametrize(
    "settings",
    [
        {"lower": "1"},
        {"1A": "1"},
        {"A-B": "1"},
        {"": "1"},
        {"BUILD_TARGET": "x"},
        {"MACHINE_ROOT": "x"},
        {"A": "\0"},
        {"A": "\udcff"},
        {"SOURCE_DATE_EPOCH": "now"},
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Mapping[str, str]) -> None:
    """Names are A-Z, 0-9 and _, values are text, and our own variables stay ours."""
    with pytest.raises(UsageError, match="--set"):
        plan_of(settings=settings)


def test_options_of_the_run_win_over_the_file() -> None:
    """Destinations, the script's limit and the recipe can be said for one run."""
    small = recipe("x", name="small")
    of = configuration(recipes=(recipe(), small))
    build = plan_of(
        "debian_trixie", of=of, recipe="small", destinations=("s3://bkt/x",), provision_s=5
    ).builds[0]
    assert build.recipe == dataclasses.replace(small, destinations=("s3://bkt/x",))
    assert build.target.deadlines == Deadlines(provision_s=5)
    assert plan_of("debian_trixie", no_publish=True).builds[0].recipe.destinations == ()


def test_host_trust_goes_only_to_recipes_that_ask() -> None:
    """Passing on what the host trusts is a setting, never silent."""
    asking = configuration(recipes=(recipe(pass_host_trust=True),))
    trust = {"SSL_CERT_FILE": "file:/ca.pem"}
    assert plan_of(host_trust=trust).builds[0].host_trust == {}
    assert plan_of(of=asking, host_trust=trust).builds[0].host_trust == trust


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"recipe": "agnet"}, "unknown recipe agnet, did you mean agent?"),
        ({"destinations": ("ftp://x",)}, "unknown scheme ftp"),
        ({"destinations": ("dist",), "no_publish": True}, "asked for and refused"),
        ({"jobs": 0}, "--jobs 0"),
        ({"provision_s": 0}, "leaves no time"),
        ({"naming": Naming(version="keys")}, "VERSION=keys"),
        ({"settings": {"VERSION": "dev"}}, "VERSION=dev"),
    ],
)
def test_options_that_cannot_be_are_refused(fields: Mapping[str, Any], words: str) -> None:
    """A wrong option is told before anything starts."""
    with pytest.raises(UsageError) as caught:
        plan_of(**fields)
    assert words in str(caught.value)


# --- frozen and printed -------------------------------------------------------------------------


def test_freezing_sets_image_inputs_key_and_folder() -> None:
    """After freezing every build says what it starts from and where it goes."""
    plan = plan_of("debian_*")
    images = {each.name: Image(source=each.name, sha256="ab", disk="/d") for each in plan.builds}
    inputs = {each.name: (Input(name="target", value=each.name),) for each in plan.builds}
    frozen = freeze(plan, images, inputs)
    assert [each.name for each in frozen.builds] == [each.name for each in plan.builds]
    for build in frozen.builds:
        assert build.image == images[build.name]
        assert build.key == key_of(inputs[build.name])
        assert build.folder == f"dev/{build.key[:12]}"
    assert len({build.key for build in frozen.builds}) == 2


def test_a_build_without_an_image_stays_as_it_was() -> None:
    """One target's missing image does not keep the others from being frozen."""
    plan = plan_of("debian_*")
    first, second = plan.builds
    images = {first.name: Image(source="x", sha256="ab", disk="/d")}
    inputs = {first.name: (Input(name="target", value=first.name),)}
    frozen = freeze(plan, images, inputs)
    assert frozen.builds[0].key
    assert frozen.builds[1] == second


def test_a_key_does_not_hang_on_the_order_of_its_inputs() -> None:
    """The same inputs give the same key, and values never run into names."""
    one, two = Input(name="a", value="b"), Input(name="c", value="d")
    assert key_of((one, two)) == key_of((two, one))
    assert key_of((one,)) != key_of((Input(name="ab", value=""),))
    assert len(key_of(())) == 64


TEXT = st.text(max_size=8)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
SECONDS = st.floats(min_value=0, allow_infinity=False)
ANY_TARGET = st.builds(
    Target,
    name=TEXT,
    distro=st.builds(Distro, name=TEXT, distribution=TEXT, release=TEXT, ssh_options=st.tuples()),
    provider=st.sampled_from(string.ascii_lowercase),
    image=st.builds(ImageSource, url=TEXT),
    size=st.builds(Size, cpus=st.integers(0, 2**40)),
    deadlines=st.builds(Deadlines, boot_s=SECONDS, provision_s=SECONDS),
    options=TEXTS,
)
ANY_OUTPUTS = st.lists(st.builds(Output, name=TEXT, members=TEXT), max_size=2).map(tuple)
ANY_BUILD = st.builds(
    Build,
    target=ANY_TARGET,
    recipe=st.builds(
        Recipe,
        name=TEXT,
        script=TEXT,
        inputs=st.lists(TEXT, max_size=2).map(tuple),
        outputs=ANY_OUTPUTS,
        destinations=st.tuples(TEXT),
        environment=TEXTS,
        pass_host_trust=st.booleans(),
    ),
    naming=st.builds(Naming, version=TEXT),
    outputs=ANY_OUTPUTS,
    environment=TEXTS,
    host_trust=TEXTS,
    image=st.none() | st.builds(Image, source=TEXT, sha256=TEXT, disk=TEXT),
    inputs=st.lists(st.builds(Input, name=TEXT, value=TEXT), max_size=2).map(tuple),
    key=TEXT,
    folder=TEXT,
)
ANY_PLAN = st.builds(
    Plan,
    schema=st.just(1),
    run_id=TEXT,
    run_uuid=TEXT,
    project=TEXT,
    created_at=TEXT,
    jobs=st.integers(1, 1000),
    builds=st.lists(ANY_BUILD, max_size=2).map(tuple),
)


@given(plan=ANY_PLAN)
def test_a_plan_survives_being_written_and_read(plan: Plan) -> None:
    """``plan --json`` and plan.json lose nothing."""
    assert decode(encode(plan)) == plan


def test_a_made_plan_survives_being_written_and_read() -> None:
    """Also what make_plan itself makes, before and after freezing."""
    plan = plan_of("*", settings={"A": "é\n"}, provision_s=5)
    assert decode(encode(plan)) == plan
    assert decode(encode(plan).encode()) == plan
    assert encode(decode(encode(plan))) == encode(plan), "a whole number of seconds stays one"


@pytest.mark.parametrize("text", ["", "[]", "{}", b"\xff", "nonsense"])
def test_what_is_no_plan_is_refused(text: str | bytes) -> None:
    """A file that is not a plan gives an error of ours."""
    with pytest.raises(UsageError, match="not a plan"):
        decode(text)


def test_a_plan_of_another_schema_is_refused() -> None:
    """An old tool does not guess what a newer plan means."""
    text = encode(plan_of()).replace('"schema": 1', '"schema": 2')
    with pytest.raises(UsageError, match="schema 2"):
        decode(text)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("log{version}.txt", "'log.txt': is a file that the tool itself keeps"),
        ("{version}", "'': is empty"),
        ("{version}.gz", "'.gz': begins with ."),
        ("a.sha256{version}", "'a.sha256': ends in .sha256"),
    ],
)
def test_a_name_that_cannot_be_is_told_once_it_is_known(template: str, told: str) -> None:
    """Without VERSION a template may become the name of the target's log, or nothing."""
    named = configuration(recipes=(recipe(template),))
    with pytest.raises(UsageError, match=told):
        plan_of("debian_trixie_qemu", of=named)
    (build,) = plan_of("debian_trixie_qemu", of=named, naming=Naming(version="1")).builds
    assert build.outputs[0].name == template.replace("{version}", "_1")


def test_a_name_longer_than_file_systems_take_is_told() -> None:
    """It would fail at the very end, where a file is written beside it."""
    named = configuration(recipes=(recipe("a" * 300),))
    with pytest.raises(UsageError, match="has more than 200 bytes"):
        plan_of("debian_trixie_qemu", of=named)


def test_host_trust_that_is_not_text_is_refused_where_it_is_asked_for() -> None:
    """A proxy with a stray byte is told by name; a recipe without host trust does not mind."""
    asks = configuration(recipes=(recipe(pass_host_trust=True),))
    with pytest.raises(UsageError, match="http_proxy of this host is not text"):
        plan_of("debian_trixie_qemu", of=asks, host_trust={"http_proxy": "\udcff"})
    assert plan_of("debian_trixie_qemu", host_trust={"http_proxy": "\udcff"}).builds


def test_the_environment_file_has_what_was_set_and_only_names_of_secrets() -> None:
    """What the user sets wins over the host's trust; where a secret lies is nobody's business."""
    asks = recipe(pass_host_trust=True, secrets=("TOKEN=/srv/token",))
    (build,) = plan_of(
        "debian_trixie_qemu",
        of=configuration(recipes=(asks,)),
        host_trust={"PIP_INDEX_URL": "***"},
        settings={"PIP_INDEX_URL": "mine"},
    ).builds
    lines = environment_file(build)["environment.sh"].splitlines()
    assert "export PIP_INDEX_URL=mine" in lines
    assert "# TOKEN: a secret, sent over standard input" in lines
