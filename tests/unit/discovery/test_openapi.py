"""The OpenAPI document, and the API held against it."""

import re
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from cellmesh.protocol.fields import is_cell_id
from cellmesh_operator.discovery.app import create_app
from cellmesh_operator.discovery.openapi import openapi_document
from cellmesh_operator.discovery.settings import Settings

schema = schemathesis.openapi.from_asgi(
    "/openapi.json",
    create_app(Settings(max_registrations=100_000)),
    config=SchemathesisConfig.from_dict({"seed": 1}),
)


@schema.parametrize()
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_does_what_its_document_says(case: Any) -> None:
    """Expect documented statuses and bodies, valid input taken and invalid refused."""
    if isinstance(case.body, dict) and is_mesh(case.body.get("namespace")):
        # What the document says in words: the mesh that a registration names is that of the URL.
        # Not in place: cases share their bodies.
        case.body = {**case.body, "namespace": case.path_parameters.get("namespace", "default")}
    case.call_and_validate()


def is_mesh(value: Any) -> bool:
    """Tell whether a value can be the name of a mesh."""
    return isinstance(value, str) and is_cell_id(value)


def test_every_route_is_documented() -> None:
    """Expect the paths of the application in the document, and no others."""
    app = create_app(Settings())
    routes = {getattr(route, "path", "") for route in app.routes}
    framework = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    assert routes - framework == set(openapi_document()["paths"])


def test_every_reference_leads_somewhere() -> None:
    """Expect each $ref to name a component."""
    document = openapi_document()
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= document["components"]["schemas"].keys()


def test_operations_have_names_of_their_own() -> None:
    """Expect unique operation ids, for generated clients."""
    names = [item["operationId"] for path in openapi_document()["paths"].values() for item in path.values()]
    assert len(names) == len(set(names))
