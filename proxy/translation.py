"""Makes a request ready for a candidate: passed through as bytes where the provider speaks the client's format, else through the hub."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy import envelopes, passages
from proxy.body import Body
from proxy.bridges import BridgeTap, BridgeWhole
from proxy.dialects import DIALECTS
from proxy.formats import anthropic_messages
from proxy.formats.base import Facts, FormatName
from proxy.formats.conversation import Conversation, Echo, Origin, Target
from proxy.passages import Passage, Surface
from proxy.providers.base import path_of
from proxy.routing import Candidate
from proxy.surfaces import GeminiSurface, MessagesSurface, ResponsesSurface

SURFACES: dict[str, Surface] = {
    **passages.SURFACES,
    **{surface.name: surface for surface in (MessagesSurface(), ResponsesSurface(), GeminiSurface())},
}
HUB_FORMATS: dict[str, Origin] = {"chat": "chat", "responses": "responses", "messages": "messages", "gemini": "gemini"}


@dataclass(slots=True)
class Trip:
    """One request on its way: who asks, what, and how long the answer may get (tokens of one choice)."""

    request_id: uuid.UUID
    account_id: int
    created: int
    surface: Surface
    body: Body
    facts: Facts
    output_limit: int
    clamped: bool
    capabilities: tuple[str, ...]


def plan(trip: Trip, candidate: Candidate, *, sealing: envelopes.Envelopes) -> Passage:
    """Make a trip's request ready for a candidate.

    Raises: CannotParse, CannotRender.
    """
    if candidate.format == trip.surface.name:
        return trip.surface.pass_through(trip.body, trip.facts, candidate, output_limit=trip.output_limit if trip.clamped else None)
    return _bridge(trip, candidate, DIALECTS[trip.surface.name].parse_request(trip.body.fields), sealing)


def _bridge(trip: Trip, candidate: Candidate, conversation: Conversation, sealing: envelopes.Envelopes) -> Passage:
    client, target_dialect = DIALECTS[trip.surface.name], DIALECTS[candidate.format]
    upstream_model, kind = candidate.route.upstream_model, candidate.route.provider.kind
    family = envelopes.family_of(upstream_model)
    envelopes.unwrap_conversation(conversation, sealing, account_id=trip.account_id, provider_kind=kind, model_family=family)
    target = Target(upstream_model, trip.output_limit, kind, trip.capabilities)
    rendered = target_dialect.render_request(conversation, target)
    reader = target_dialect.read(conversation, rendered)
    echo = Echo(
        id=client.id_prefix + trip.request_id.hex,
        created=trip.created,
        model=trip.facts.model,
        request=trip.body.fields,
        conversation=conversation,
    )

    def wrapping() -> envelopes.Wrapping:
        return envelopes.Wrapping(
            sealing, account_id=trip.account_id, provider_kind=kind, model_family=family, client_format=HUB_FORMATS[trip.surface.name]
        )

    return Passage(
        path_of(candidate.format, upstream_model, stream=trip.facts.stream),
        orjson.dumps(rendered),
        lambda: BridgeTap(reader.make_parser(), client.make_renderer(echo), wrap=wrapping().event),
        lambda raw: BridgeWhole(raw, parse=reader.parse_answer, render=client.render_answer, echo=echo, wrap=wrapping().answer),
        headers=_headers(candidate.format, rendered),
        dropped=tuple(dict.fromkeys(target.dropped)),
    )


def _headers(format_name: FormatName, rendered: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if format_name != "messages":
        return ()
    headers = [("anthropic-version", anthropic_messages.version_for(rendered))]
    betas = anthropic_messages.betas_for(rendered)
    if betas:
        headers.append(("anthropic-beta", ",".join(betas)))
    return tuple(headers)
