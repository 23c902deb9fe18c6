"""The documentation's schemas, made from the same types as the codec."""

from __future__ import annotations

import inspect
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cellmesh.protocol.consuming import (
    AckBody,
    DeadAnswer,
    DeadBody,
    ExtendBody,
    LeaseAnswer,
    LeaseBody,
    NackBody,
    SettledAnswer,
)
from cellmesh.protocol.handover import Handover, HandoverAnswer
from cellmesh.protocol.messages import CellMessage, LegacyMessage
from cellmesh.protocol.problems import CODES, ErrorBody
from cellmesh.protocol.queueing import Queued, QueuedCopies, SentCopies, SentMessage, SentPage
from cellmesh.protocol.receipts import (
    BatchItem,
    BroadcastAnswer,
    Delivered,
    LegacyReceipt,
    MessagePage,
    MessageWithHistory,
    Receipt,
    SendErrorBody,
    components,
)
from cellmesh.protocol.sends import SendRequest

_TYPES: list[Any] = [
    CellMessage, LegacyMessage, SendRequest, Receipt, LegacyReceipt, BatchItem, BroadcastAnswer, Delivered,
    MessagePage, MessageWithHistory, ErrorBody, SendErrorBody, LeaseBody, LeaseAnswer, AckBody, NackBody, ExtendBody,
    SettledAnswer, DeadBody, DeadAnswer, Queued, QueuedCopies, SentMessage, SentCopies, SentPage, Handover,
    HandoverAnswer,
]  # fmt: skip


def ref(kind: type | str) -> dict[str, str]:
    """Return the reference to the schema of a type."""
    return {"$ref": f"#/components/schemas/{kind if isinstance(kind, str) else kind.__name__}"}


def content(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON body of this schema."""
    return {"application/json": {"schema": schema}}


def body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a required JSON request body."""
    return {"requestBody": {"required": True, "content": content(schema)}}


def responses(
    success: dict[str, Any], *codes: str, description: str = "Success", errors: type = ErrorBody
) -> dict[int | str, dict[str, Any]]:
    """Return the answers of an endpoint: one success and the errors of these codes."""
    answers: dict[int | str, dict[str, Any]] = {200: {"description": description, "content": content(success)}}
    by_status: dict[int, list[str]] = {}
    for code in ("forbidden_host", "forbidden_origin", *codes):
        by_status.setdefault(CODES[code], []).append(code)
    for status, names in sorted(by_status.items()):
        answers[status] = {"description": ", ".join(names), "content": content(ref(errors))}
    return answers


def send_responses() -> dict[int | str, dict[str, Any]]:
    """Return the answers of ``POST /send``: to one receiver and to several, sent at once and queued."""
    several = ref(BroadcastAnswer)
    answers = responses({"anyOf": [ref(Delivered), several]}, *SEND, errors=SendErrorBody)
    answers[202] = {"description": "queued, on disk", "content": content({"anyOf": [ref(Queued), ref(QueuedCopies)]})}
    answers[207] = {"description": "delivered to some of several receivers", "content": content(several)}
    answers[502]["content"] = content({"anyOf": [ref(SendErrorBody), several]})
    return answers


READ = ("invalid_field",)
WRITE = (
    "malformed_json", "request_timeout", "body_too_large", "unsupported_media_type", "invalid_field", "internal",
)  # fmt: skip
HANDOVER = (*WRITE, "misdirected", "draining", "disk_full")
RECEIVE = (*WRITE, "id_conflict", "misdirected", "inbox_full", "draining", "disk_full")
SEND = (*RECEIVE, "unknown_cell", "link_full", "unreachable", "no_ready_instance", "discovery_unavailable", "timeout",
        "outcome_unknown", "reply_timeout", "no_receivers", "outbox_full")  # fmt: skip
MESSAGE_BODY = {"anyOf": [ref(CellMessage), ref(LegacyMessage)]}


def describe(app: FastAPI) -> None:
    """Give the app an OpenAPI document that holds the protocol's types."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, named = components(_TYPES)
            for schema in named.values():
                schema["description"] = inspect.cleandoc(schema.get("description", ""))
            for name in ("CellMessage", "LegacyMessage", "SendRequest"):
                for field in ("payload", "content", "metadata"):
                    _object(named[name]["properties"].get(field), anything=field != "payload")
            for name in ("AckItem", "NackItem", "ExtendItem", "NamedItem"):
                named[name]["anyOf"] = [{"required": ["seq"]}, {"required": ["message_id"]}]
            named["DeadBody"]["oneOf"] = [
                {"required": ["items"], "not": {"anyOf": [{"required": ["all"]}, {"required": ["reason"]}]}},
                {"required": ["all"], "not": {"required": ["items"]}},
            ]
            for name in ("StoredMessage", "MessageWithHistory", "LeasedMessage"):
                _object(named[name]["properties"]["payload"], anything=False)
            named["SentMessage"]["properties"]["payload"] = {"type": "object"}
            for name in ("Delivered", "BatchItem", "BroadcastResult"):
                for field in ("response", "body"):
                    _object(named[name]["properties"].get(field), anything=False)
            document.setdefault("components", {}).setdefault("schemas", {}).update(named)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


def _object(schema: dict[str, Any] | None, *, anything: bool) -> None:
    """Say of a raw field what it holds: any JSON value, or an object."""
    if schema is not None and not anything and "anyOf" not in schema:
        schema["type"] = "object"
