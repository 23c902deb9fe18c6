"""The OpenAPI document, from the same types that requests are decoded with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cellmesh.protocol.fields import CELL_ID_PATTERN, MAX_ID
from cellmesh.protocol.peers import Heartbeat, Peer, PeerRegistration
from cellmesh.protocol.problems import ErrorBody
from cellmesh.protocol.receipts import components
from cellmesh_operator.discovery.answers import Beaten, Deregistered, Health, Meshes, Peers, Probe, Registered
from cellmesh_operator.discovery.queries import WAIT_PATTERN
from cellmesh_operator.discovery.registration import HOST_PATTERN, IGNORED, MAX_BODY

TITLE = "CellMesh discovery"
DESCRIPTION = """Who is where in a mesh.

Cells register, send a heartbeat every 5 s, and are gone after 15 s of silence. Everything under
`/meshes/{namespace}` is also there without that prefix, for the default mesh. In Kubernetes a mesh is a
namespace; the ready pods of its Cells are peers without registering, and a name that is a Cell's cannot be
registered.

Every error is JSON with a stable `code`. A `Host` or `Origin` that is foreign to this server is answered
403. A method that a path does not have is answered 405 with `Allow`.
"""

_Json = dict[str, Any]
_CELL_ID = {"type": "string", "pattern": CELL_ID_PATTERN}
_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_ID}
_ERRORS = {
    400: "`malformed_json`: the body is not one JSON text in UTF-8",
    403: "`forbidden_host`, `forbidden_origin`: a name or a web page that this server does not serve",
    404: "`unknown_registration`: nobody of that name is registered",
    408: "`request_timeout`: the body did not come in time",
    409: "`name_taken`: there is a Cell of this name",
    413: f"`body_too_large`: more than {MAX_BODY} bytes",
    415: "`unsupported_media_type`: not `application/json`",
    422: "`invalid_field`: `field` names what is wrong",
    429: "`too_many_registrations`: a setting bounds them; renewals are not refused",
    500: "`internal`: an error of discovery",
    503: "`draining`: discovery is shutting down; `not_ready`: it has not yet heard all from the API server; "
    "`broken`: only a new start mends it",
}
_BODY_ERRORS = (400, 408, 413, 415, 422, 503)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def api_version() -> str:
    """Return the version of the distribution, ``0`` where it runs without being installed."""
    try:
        return version("cellmesh")
    except PackageNotFoundError:
        return "0"


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    paths: _Json = {}
    for path, method, operation in _in_mesh():
        paths[path] = {method: operation}
        parameters = [_parameter("namespace", "path", _CELL_ID, "The mesh."), *operation.get("parameters", [])]
        inside = {**operation, "operationId": operation["operationId"] + "_in_mesh", "parameters": parameters}
        if 422 not in _statuses(operation):
            inside["responses"] = {**operation["responses"], "422": _error(422)}
        paths["/meshes/{namespace}" + path] = {method: inside}
    for path, operation in _plain():
        paths[path] = {"get": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "description": DESCRIPTION, "version": api_version()},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _schemas() -> _Json:
    _, schemas = components(
        [Peer, PeerRegistration, Heartbeat, Peers, Registered, Beaten, Deregistered, Meshes, Health, Probe, ErrorBody]
    )
    schemas["Registration"] = _registration(schemas.pop("PeerRegistration"))
    return schemas


def _registration(peer: _Json) -> _Json:
    """Return the schema of a registration: a peer without what discovery ignores, with an address.

    That ``namespace`` has to be the mesh of the URL is beyond JSON Schema, and stands in words.
    """
    properties = {name: schema for name, schema in peer["properties"].items() if name not in IGNORED}
    for name in ("ip", "hostname"):
        properties[name] = {"anyOf": [{"type": "string", "pattern": HOST_PATTERN}, {"type": "null"}]}
    properties["namespace"] = {"anyOf": [_CELL_ID, {"type": "null"}], "description": "The mesh of the URL, if sent."}
    return {
        "title": "Registration",
        "description": (
            "One instance of a cell, with ip or hostname. Any other field is kept and given back as it is; "
            "source and last_seen are set by discovery, whatever is sent, and so is namespace, which must be "
            "the mesh of the URL if it is sent. Without instance the cell's name is the key."
        ),
        "type": "object",
        "properties": properties,
        "required": ["cell_id", "port"],
        "anyOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("ip", "hostname")],
    }


def _in_mesh() -> list[tuple[str, str, _Json]]:
    return [
        ("/peers", "get", _peers()),
        (
            "/register",
            "post",
            _operation(
                "register",
                "Register an instance of a cell; one of the same cell and instance is replaced.",
                _json("Registered"),
                (*_BODY_ERRORS, 409, 429),
                requestBody=_body("Registration"),
            ),
        ),
        (
            "/heartbeat",
            "post",
            _operation(
                "heartbeat",
                "Tell that a registered instance is alive; upon 404 register again. Other fields are ignored.",
                _json("Beaten"),
                (*_BODY_ERRORS, 404),
                requestBody=_body("Heartbeat"),
            ),
        ),
        (
            "/peer/{cell_id}",
            "delete",
            _operation(
                "deregister",
                "Remove a registration; with uid only that of this life of the instance.",
                _json("Deregistered"),
                (404, 422),
                parameters=[
                    _parameter("cell_id", "path", _CELL_ID, "The cell."),
                    _parameter("instance", "query", _NAME, "The instance, if it registered with one."),
                    _parameter("uid", "query", _NAME, "The uid that the registration must have."),
                ],
            ),
        ),
    ]


def _peers() -> _Json:
    headers = {
        "ETag": {"description": "Hash of the content, equal on all replicas.", "schema": {"type": "string"}},
        "CellMesh-Version": {"description": "The version, as in the body.", "schema": {"type": "string"}},
        "Age": {"description": "With Kubernetes: age, in whole seconds.", "schema": {"type": "integer"}},
    }
    operation = _operation(
        "peers",
        "Who is there. With version and wait: once there is something newer, at the latest after wait.",
        {**_json("Peers"), "headers": headers},
        (422,),
        parameters=[
            _parameter("cell_id", "query", _CELL_ID, "Only instances of this cell."),
            _parameter("version", "query", {"type": "string"}, "The version that the client has; opaque."),
            _parameter(
                "wait",
                "query",
                {"type": "string", "pattern": WAIT_PATTERN},
                "Longest time to wait for something newer than version, at most 60 s: `30s`, `30`, `500ms`.",
            ),
            _parameter("If-None-Match", "header", {"type": "string"}, "Entity tags that the client has."),
        ],
    )
    operation["responses"]["304"] = {"description": "The client has this content.", "headers": headers}
    return operation


def _plain() -> list[tuple[str, _Json]]:
    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return [
        ("/meshes", _operation("meshes", "The meshes in which anyone is.", _json("Meshes"), ())),
        ("/health", _operation("health", "How discovery is.", _json("Health"), ())),
        ("/livez", _operation("livez", "Whether the process is alive.", _json("Probe"), (503,))),
        ("/readyz", _operation("readyz", "Whether to send requests here.", _json("Probe"), (503,))),
        ("/metrics", _operation("metrics", "Metrics.", text, ())),
    ]


def _operation(name: str, summary: str, answer: _Json, errors: tuple[int, ...], **more: Any) -> _Json:
    responses = {str(status): _error(status) for status in sorted({*errors, 403, 500})}
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **responses}, **more}


def _statuses(operation: _Json) -> set[int]:
    return {int(status) for status in operation["responses"]}


def _parameter(name: str, where: str, schema: _Json, description: str) -> _Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


def _body(schema: str) -> _Json:
    return {"required": True, "content": _content(schema)}


def _json(schema: str) -> _Json:
    return {"description": "Done.", "content": _content(schema)}


def _content(schema: str) -> _Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _error(status: int) -> _Json:
    answer = {"description": _ERRORS[status], "content": _content("ErrorBody")}
    return {**answer, "headers": _RETRY_AFTER} if status in {429, 503} else answer
