"""The client: what it sends, what it makes of answers, and what of none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from cellmesh_operator.errors import AccessError, ApiError, ConnectionLost
from cellmesh_operator.kube import access
from cellmesh_operator.kube.client import PAGE, Client
from cellmesh_operator.naming import CELLS, SERVICES

pytestmark = pytest.mark.anyio

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(answer: Answer, **more: Any) -> AsyncIterator[tuple[Client, list[web.Request]]]:
    """Run an HTTP server and a client of it; yield the client and the requests that came."""
    requests: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        requests.append(request)
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    configuration.api_key["BearerToken"] = "Bearer first"
    try:
        async with Client.connect(configuration, **more) as client:
            yield client, requests
    finally:
        await runner.cleanup()


def answering(body: Any, status: int = 200, **headers: str) -> Answer:
    """Return a handler with one answer."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def status(code: int, reason: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a Status, as refusals of the API server are."""
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, **more}


async def test_an_apply_names_manager_and_force_and_sends_json_as_an_apply_patch() -> None:
    """Expect the request that server-side apply needs, with our login, and the uid in the object."""
    async with server(answering({"kind": "Service"})) as (client, requests):
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "m"}}
        await client.apply(SERVICES, body, uid="u", force=False)
        (request,) = requests
        assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/m/services/a")
        assert dict(request.query) == {"fieldManager": "cellmesh-reconciler", "force": "false"}
        assert request.content_type == "application/apply-patch+yaml"
        assert request.headers["Authorization"] == "Bearer first"
        assert json.loads(await request.text())["metadata"] == {"name": "a", "namespace": "m", "uid": "u"}


async def test_a_status_is_applied_to_the_subresource() -> None:
    """Expect the path of the status."""
    async with server(answering({})) as (client, requests):
        await client.apply_status(CELLS, {"metadata": {"name": "a", "namespace": "m"}, "status": {}})
        assert requests[0].path == "/apis/cellmesh.dev/v1alpha1/namespaces/m/cells/a/status"


async def test_what_is_not_there_is_none() -> None:
    """Expect a get to answer None and a delete False."""
    async with server(answering(status(404, "NotFound", "no"), 404)) as (client, _):
        assert await client.get(CELLS, "m", "a") is None
        assert await client.delete(CELLS, "m", "a") is False


async def test_a_refusal_is_an_error_with_status_reason_and_message() -> None:
    """Expect what the Status says."""
    async with server(answering(status(409, "Conflict", "somebody was faster"), 409)) as (client, _):
        with pytest.raises(ApiError) as caught:
            await client.list(CELLS)
    error = caught.value
    assert (error.status, error.reason, error.message) == (409, "Conflict", "somebody was faster")
    assert error.conflict
    assert error.temporary


async def test_a_body_that_is_no_status_is_not_shown() -> None:
    """Expect an error page of some proxy to be left out."""
    async with server(answering({"token": "secret"}, 502)) as (client, _):
        with pytest.raises(ApiError) as caught:
            await client.list(CELLS)
    assert "secret" not in str(caught.value)


async def test_an_apply_to_another_object_of_that_name_is_a_conflict() -> None:
    """Expect the API server's "invalid" about the uid to be told as what it is."""
    body = status(422, "Invalid", 'Service "a" is invalid: metadata.uid: Invalid value: "u": field is immutable')
    async with server(answering(body, 422)) as (client, _):
        with pytest.raises(ApiError) as caught:
            await client.apply(SERVICES, {"metadata": {"name": "a", "namespace": "m"}}, uid="u")
    assert caught.value.conflict


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Retry_After": "7"}, status(429, "TooManyRequests", "slow down")),
        ({}, status(429, "TooManyRequests", "slow down", details={"retryAfterSeconds": 7})),
    ],
)
async def test_the_time_that_the_server_asks_for_is_in_the_error(headers: dict[str, str], body: Any) -> None:
    """Expect Retry-After, wherever it stands."""
    async with server(answering(body, 429, **headers)) as (client, requests):
        with pytest.raises(ApiError) as caught:
            await client.list(CELLS)
        assert len(requests) == 1
    assert caught.value.retry_after == 7.0


async def test_a_server_that_is_not_there_is_a_lost_connection() -> None:
    """Expect our own error, which is also a ConnectionError, without the query."""
    configuration = Configuration(host="http://127.0.0.1:1")
    async with Client.connect(configuration) as client:
        with pytest.raises(ConnectionLost) as caught:
            await client.list(CELLS, labels="a=secret")
    assert isinstance(caught.value, ConnectionError)
    assert "secret" not in str(caught.value)


async def test_an_answer_that_takes_too_long_is_a_lost_connection() -> None:
    """Expect the deadline to hold for the body too."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"items":')
        await asyncio.sleep(60)
        return response

    async with server(answer, timeout=0.3) as (client, _):
        with pytest.raises(ConnectionLost, match="in time"):
            await client.list(CELLS)


async def test_a_long_list_is_read_in_pages() -> None:
    """Expect all items, each with its kind, and the version of the list."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["limit"] == str(PAGE)
        first = "continue" not in request.query
        metadata = {"resourceVersion": "9", **({"continue": "next"} if first else {})}
        name = "a" if first else "b"
        item = {"metadata": {"name": name, "namespace": "m", "uid": name, "resourceVersion": "5"}}
        return web.json_response({"metadata": metadata, "items": [item]})

    async with server(answer) as (client, _):
        listing = await client.list(CELLS, "m")
        heads, version = await client.heads(CELLS, "m")
    assert [(item["kind"], item["metadata"]["name"]) for item in listing.items] == [("Cell", "a"), ("Cell", "b")]
    assert listing.resource_version == "9"
    assert [(head.key, head.uid, head.version) for head in heads] == [(("m", "a"), "a", 5), (("m", "b"), "b", 5)]
    assert version == 9


async def test_a_list_whose_pages_have_become_too_old_is_read_at_once() -> None:
    """Expect no item twice, and no error."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "continue" in request.query:
            return web.json_response(status(410, "Expired", "too old"), status=410)
        more = {"continue": "next"} if "limit" in request.query else {}
        metadata = {"name": "a", "uid": "a", "resourceVersion": "1"}
        return web.json_response({"metadata": {"resourceVersion": "9", **more}, "items": [{"metadata": metadata}]})

    async with server(answer) as (client, _):
        assert len((await client.list(CELLS)).items) == 1


async def stream(request: web.Request, *chunks: bytes, hang: bool = False) -> web.StreamResponse:
    """Answer with a stream."""
    response = web.StreamResponse()
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    if hang:
        await asyncio.sleep(60)
    return response


async def test_a_watch_yields_events_however_they_are_cut_into_pieces() -> None:
    """Expect each line once, bookmarks included, and an end when the server ends it."""
    events = [{"type": kind, "object": {"n": "x" * 300_000}} for kind in ("ADDED", "BOOKMARK")]
    data = b"".join(json.dumps(event).encode() + b"\n" for event in events)

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["allowWatchBookmarks"] == "true"
        assert request.query["resourceVersion"] == "7"
        return await stream(request, data[:10], data[10:400_000], data[400_000:])

    async with server(answer) as (client, _):
        assert [kind async for kind, _ in client.watch(CELLS, since="7")] == ["ADDED", "BOOKMARK"]


@pytest.mark.parametrize("early", [True, False])
async def test_a_watch_from_too_old_a_version_says_so(early: bool) -> None:
    """Expect `gone`, whether the answer itself says it or an event in it."""
    body = status(410, "Expired", "too old resource version")

    async def answer(request: web.Request) -> web.StreamResponse:
        if early:
            return web.json_response(body, status=410)
        return await stream(request, json.dumps({"type": "ERROR", "object": body}).encode() + b"\n")

    async with server(answer) as (client, _):
        with pytest.raises(ApiError) as caught:
            async for _ in client.watch(CELLS, since="1"):
                pass
    assert caught.value.gone


async def test_a_watch_without_a_byte_is_dead() -> None:
    """Expect silence to be noticed although the connection stands."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await stream(request, b'{"type":"ADDED","object":{}}\n', hang=True)

    seen = []

    async def follow(client: Client) -> None:
        async for kind, _ in client.watch(CELLS, since="1"):
            seen.append(kind)

    async with server(answer, silence=0.3) as (client, _):
        with pytest.raises(ConnectionLost):
            await follow(client)
    assert seen == ["ADDED"]


async def test_a_login_that_is_no_longer_accepted_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one more attempt with the new token, and none after that."""

    async def reload(configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = "Bearer second"

    async def answer(request: web.Request) -> web.StreamResponse:
        good = request.headers["Authorization"] == "Bearer second"
        return web.json_response({"metadata": {}, "items": []}, status=200 if good else 401)

    monkeypatch.setattr(access, "reload", reload)
    monkeypatch.setattr("cellmesh_operator.kube.transport.LOGIN_INTERVAL", 0.0)
    async with server(answer) as (client, requests):
        await client.list(CELLS)
        assert len(requests) == 2


async def test_a_login_that_is_never_accepted_is_tried_once_more_and_no_oftener() -> None:
    """Expect the refusal, and no request storm."""
    async with server(answering(status(401, "Unauthorized", "no"), 401)) as (client, requests):
        for _ in range(3):
            with pytest.raises(ApiError):
                await client.list(CELLS)
        assert len(requests) <= 4


def kubeconfig(path: Path, token: str) -> Path:
    """Write a kubeconfig."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1"}}],
        "users": [{"name": "c", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    path.write_text(json.dumps(config))
    return path


async def test_the_kubeconfig_that_is_named_wins(tmp_path: Path) -> None:
    """Expect it before the service account, as everywhere in Kubernetes, and to be read again on demand."""
    environ = {"KUBECONFIG": str(kubeconfig(tmp_path / "k", "one")), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    configuration = await access.load(environ)
    assert configuration.host == "https://h:1"
    assert await access.authorization(configuration) == {"Authorization": "Bearer one"}
    kubeconfig(tmp_path / "k", "two")
    await access.reload(configuration, environ)
    assert await access.authorization(configuration) == {"Authorization": "Bearer two"}


async def test_a_pods_token_is_read_again_before_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the file to be read anew after a minute, as the kubelet replaces it."""
    module = access.incluster_config
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("one")
    authority.write_text("authority")
    loader = module.InClusterConfigLoader(
        str(token), str(authority), environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    )
    monkeypatch.setattr(access, "_from_pod", loader.load_and_set)
    configuration = await access.load({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert configuration.host == "https://10.0.0.1:443"
    assert await access.authorization(configuration) == {"Authorization": "bearer one"}
    token.write_text("two")
    loader.token_expires_at = loader.token_expires_at.min
    assert await access.authorization(configuration) == {"Authorization": "bearer two"}


async def test_no_api_server_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one line that names KUBECONFIG, for none and for one that is not there."""
    monkeypatch.setattr(access, "DEFAULT_KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(AccessError, match="set KUBECONFIG"):
        await access.load({})
    with pytest.raises(AccessError, match="not there"):
        await access.load({"KUBECONFIG": str(tmp_path / "missing")})
