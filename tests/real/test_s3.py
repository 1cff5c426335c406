"""S3 servers that are down, closed, careless or odd, over a real connection."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DestinationUnreachable,
    EnvironmentFailure,
    HostNotReady,
    PublishConflict,
    UsageError,
)
from build_orchestrator.events import nobody
from build_orchestrator.model import Published
from build_orchestrator.publish import Destination, check, destination_for, publish
from build_orchestrator.publish.s3 import LARGEST_BYTES, endpoint_of
from tests.contract.publishing import KEY, artifact, build_to, item
from tests.standins.s3 import s3_server

SECRET = "not-to-be-seen"
NOWHERE = Path("/nowhere")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a real S3 server."""
    with s3_server() as address:
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of nobody, and no others of this host."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def bucket_at(endpoint: str, name: str) -> Any:
    """A client, once the bucket is there."""
    import boto3

    client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    return client


def at(bucket: str, endpoint: str) -> Destination:
    return destination_for(f"s3://{bucket}/agents", project=NOWHERE, s3_endpoint=endpoint)


def content(destination: Destination) -> bytes | None:
    """What lies under the one key."""
    return destination.read(KEY)


def put(destination: Destination, content: bytes, **fields: Any) -> None:
    wanted = dataclasses.replace(item(content), **fields)
    destination.put(wanted, deadline=Deadline("publish", 60), cancel=Cancel())


def published_to(
    tmp_path: Path, endpoint: str, limit_s: float, cancel: Cancel
) -> tuple[Published, str]:
    """State and reason of an artifact that was to go to a bucket, and did go to a folder."""
    bucket, folder = publish(
        (artifact(tmp_path, b"agent"),),
        build_to("s3://bucket", "dist/"),
        project=tmp_path,
        s3_endpoint=endpoint,
        deadline=Deadline("publish", limit_s),
        cancel=cancel,
        observer=nobody,
    )
    assert folder.state is Published.YES
    return bucket.state, bucket.reason


# --- servers that keep to no rule --------------------------------------------------------------


def test_an_object_carries_its_media_type(endpoint: str) -> None:
    """A browser that fetches an artifact knows what it gets."""
    client = bucket_at(endpoint, "plain-media")
    destination = at("plain-media", endpoint)

    put(destination, b"x", media_type="application/gzip")

    head = client.head_object(Bucket="plain-media", Key=f"agents/{KEY}")
    assert head["ContentType"] == "application/gzip"
    assert destination.address(KEY) == f"s3://plain-media/agents/{KEY}"


def test_a_key_that_appears_after_we_looked_is_not_overwritten(endpoint: str) -> None:
    """Looking first is a courtesy; the condition on the PUT is what keeps the promise."""
    bucket_at(endpoint, "blind-one")
    destination = at("blind-one", endpoint)
    put(destination, b"first")

    with pytest.raises(PublishConflict):
        put(destination, b"other")

    assert content(destination) == b"first"
    put(destination, b"first")


def test_a_server_that_ignores_conditions_is_looked_at_first(endpoint: str) -> None:
    """Where ``If-None-Match`` means nothing, an existing key still stays as it is."""
    bucket_at(endpoint, "careless-one")
    destination = at("careless-one", endpoint)
    put(destination, b"first")

    with pytest.raises(PublishConflict):
        put(destination, b"other")

    assert content(destination) == b"first"


def test_a_race_on_a_careless_server_never_claims_bytes_that_are_not_there(endpoint: str) -> None:
    """Nobody can prevent the overwriting there, but who says yes has seen his bytes last."""
    bucket_at(endpoint, "careless-race")
    start = threading.Barrier(4)

    def race(n: int) -> None:
        start.wait()
        with contextlib.suppress(PublishConflict):
            put(at("careless-race", endpoint), f"racer {n}".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))

    with pytest.raises(PublishConflict):
        put(at("careless-race", endpoint), b"racer 9")


def test_an_object_that_was_stored_wrong_is_found_by_reading_it_back(endpoint: str) -> None:
    """The server said 200 and keeps other bytes; we do not say that it is published."""
    bucket_at(endpoint, "damaging-one")

    with pytest.raises(PublishConflict, match="holds other bytes"):
        put(at("damaging-one", endpoint), b"first")


def test_two_publishers_in_each_others_way_ask_again(endpoint: str) -> None:
    """409 ConditionalRequestConflict is no answer; the next one is."""
    bucket_at(endpoint, "busy-one")

    put(at("busy-one", endpoint), b"first")

    assert content(at("busy-one", endpoint)) == b"first"


def test_an_answer_that_got_lost_does_not_turn_into_a_conflict(endpoint: str) -> None:
    """The object was stored, the answer was an error, the repetition hits 412: it is ours."""
    bucket_at(endpoint, "lossy-one")

    put(at("lossy-one", endpoint), b"first")


def test_a_connection_that_breaks_while_sending_leaves_nothing(endpoint: str) -> None:
    """Half of an object is no object."""
    bucket_at(endpoint, "plain-broken")
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    connection.putrequest("PUT", f"/plain-broken/agents/{KEY}")
    connection.putheader("Content-Length", "1000")
    connection.putheader("Authorization", "AWS4-HMAC-SHA256 Credential=somebody/20261121/x/s3/y")
    connection.endheaders(b"half of it")
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_WR)
    assert connection.getresponse().status == 400
    connection.close()

    put(at("plain-broken", endpoint), b"whole")


# --- out of reach ------------------------------------------------------------------------------


def test_a_refusal_names_what_is_missing(endpoint: str) -> None:
    """Some servers refuse without a message; the error still says what to look for."""
    with pytest.raises(DestinationUnreachable) as caught:
        put(at("closed-one", endpoint), b"first")

    assert caught.value.brief == "s3://closed-one: PutObject was refused with AccessDenied"
    assert "s3:PutObject and s3:GetObject on bucket closed-one" in caught.value.resolution


def test_a_missing_bucket_is_named(endpoint: str) -> None:
    """A misspelt bucket is told as that, though HEAD only says 404."""
    with pytest.raises(DestinationUnreachable, match="NoSuchBucket") as caught:
        put(at("plain-absent", endpoint), b"first")

    assert caught.value.resolution.startswith("Create the bucket")


def test_a_server_that_is_down_is_named_without_its_password() -> None:
    """The address helps to find the mistake; what is secret in it is left out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(DestinationUnreachable, match="cannot be reached") as caught:
        put(at("bucket", f"http://somebody:{SECRET}@127.0.0.1:{port}"), b"first")

    assert f"127.0.0.1:{port}" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "AWS_ENDPOINT_URL_S3" in caught.value.resolution


def test_a_host_without_credentials_is_told_before_anything_boots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The preflight and the publishing itself both say which variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"

    with pytest.raises(HostNotReady, match="no credentials for S3") as early:
        check(["s3://bucket"], project=NOWHERE, s3_endpoint=endpoint)
    with pytest.raises(DestinationUnreachable, match="no usable credentials") as late:
        put(at("bucket", endpoint), b"first")

    assert early.value.resolution == late.value.resolution
    assert "AWS_ACCESS_KEY_ID" in early.value.resolution


def test_a_profile_that_does_not_exist_is_told_before_anything_boots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A misspelt AWS_PROFILE is the user's mistake, and named."""
    monkeypatch.setenv("AWS_PROFILE", "misspelt")

    with pytest.raises(HostNotReady, match="misspelt"):
        check(["s3://bucket"], project=NOWHERE, s3_endpoint=None)


def test_credentials_are_all_that_the_preflight_wants() -> None:
    """It boots nothing, asks no server, and passes with credentials."""
    check(["s3://bucket/prefix"], project=NOWHERE, s3_endpoint="http://127.0.0.1:1")


def test_a_server_that_says_nothing_costs_no_more_than_the_deadline(
    tmp_path: Path, silent: str
) -> None:
    """The row says which limit passed, and the folder beside it has everything."""
    started = time.monotonic()

    state, reason = published_to(tmp_path, silent, 0.5, Cancel())

    assert state is Published.NO
    assert reason.startswith("publish: no end within its limit of 0.5 s")
    assert time.monotonic() - started < 5
    assert (tmp_path / f"dist/keys/{'ab' * 32}.json").is_file()


def test_an_interruption_does_not_wait_for_a_server_that_says_nothing(
    tmp_path: Path, silent: str
) -> None:
    """Ctrl-C is heard at once, and what another destination has got by then is in its row."""
    cancel = Cancel()
    pressed: list[float] = []

    def press() -> None:
        while not list((tmp_path / "dist").rglob("keys/*.json")):  # What the folder gets last.
            time.sleep(0.05)
        pressed.append(time.monotonic())
        cancel.set(signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()

    assert published_to(tmp_path, silent, 60, cancel) == (Published.NO, "stopped by SIGINT")
    assert time.monotonic() - pressed[0] < 5


def test_what_one_put_cannot_carry_is_refused_before_it_is_sent() -> None:
    """5 GB is the limit of a single PUT, and only that is conditional everywhere."""
    with pytest.raises(EnvironmentFailure, match="larger than the 5 GB") as caught:
        put(at("bucket", "http://127.0.0.1:1"), b"", size_bytes=LARGEST_BYTES + 1)

    assert not isinstance(caught.value, DestinationUnreachable)


# --- what is asked for -------------------------------------------------------------------------


def test_the_option_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """--s3-endpoint, then AWS_ENDPOINT_URL_S3, then AWS_ENDPOINT_URL, then Amazon."""
    assert endpoint_of(None) == ""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all")
    assert endpoint_of(None) == "http://all"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    assert endpoint_of(None) == "http://s3"
    assert endpoint_of("http://option") == "http://option"


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "ftp://host", "http://", "http://host:port", f"x {SECRET}"]
)
def test_a_malformed_endpoint_is_a_usage_error(endpoint: str) -> None:
    """It is told before anything starts, and not repeated: it may hold a password."""
    with pytest.raises(UsageError, match="S3 endpoint") as caught:
        at("bucket", endpoint)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["s3://", "s3://UPPER", "http://host/x", ""])
def test_a_malformed_destination_is_a_usage_error(name: str) -> None:
    """A destination is a folder or s3://bucket/prefix."""
    with pytest.raises(UsageError):
        destination_for(name, project=NOWHERE, s3_endpoint=None)
