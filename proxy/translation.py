"""Makes a request ready for a candidate: passed through as bytes where the provider speaks the client's format, else through the hub."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy import envelopes, grammar
from proxy.body import Body
from proxy.bridges import BridgeTap, BridgeWhole
from proxy.carryover import Carryover
from proxy.dialects import DIALECTS
from proxy.envelopes import Envelopes, Wrapping
from proxy.formats import anthropic_messages
from proxy.formats.base import Facts, FormatName
from proxy.formats.conversation import AnyItem, Conversation, Echo, Origin, Target
from proxy.openai_surfaces import ChatSurface, CompletionsSurface, EmbeddingsSurface, ImagesSurface
from proxy.passages import Passage, Surface
from proxy.preferences import ANY, Preferences
from proxy.providers.base import path_of
from proxy.routing import Candidate
from proxy.surfaces import GeminiSurface, MessagesSurface, ResponsesSurface

SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        ChatSurface(),
        ResponsesSurface(),
        MessagesSurface(),
        GeminiSurface(),
        CompletionsSurface(),
        EmbeddingsSurface(),
        ImagesSurface(),
    )
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
    preferences: Preferences = ANY


async def plan(trip: Trip, candidate: Candidate, *, sealing: Envelopes, carryover: Carryover) -> Passage:
    """Make a trip's request ready for a candidate.

    A request in the candidate's own format passes as bytes, unless it brings back signatures that another format sealed.
    Raises: CannotParse, CannotRender.
    """
    surface = trip.surface
    if candidate.format == surface.name and not (surface.is_conversation and envelopes.mentions_envelope(trip.body.raw)):
        return surface.pass_through(trip.body, trip.facts, candidate, output_limit=trip.output_limit if trip.clamped else None)
    conversation = DIALECTS[surface.name].parse_request(trip.body.fields)  # anew for each candidate: what follows writes to it
    client_keeps_seals = any(map(envelopes.is_envelope, envelopes.seals_of(conversation.items)))
    if candidate.format != "chat" and not client_keeps_seals:
        await carryover.recall(trip.account_id, conversation)
    passage, turn = _bridge(trip, candidate, conversation, sealing)
    if not client_keeps_seals:
        passage.finished = lambda: carryover.remember(trip.account_id, turn())
    return passage


def _bridge(
    trip: Trip, candidate: Candidate, conversation: Conversation, sealing: Envelopes
) -> tuple[Passage, Callable[[], list[AnyItem]]]:
    """The passage, and what gives the answer's items once it is over."""
    client, provider = DIALECTS[trip.surface.name], DIALECTS[candidate.format]
    upstream_model = candidate.route.upstream_model
    bound_to = {"provider_kind": _sealer(candidate), "model_family": envelopes.family_of(upstream_model)}
    envelopes.unwrap_conversation(conversation, sealing, account_id=trip.account_id, **bound_to)
    target = Target(upstream_model, trip.output_limit, candidate.route.provider.kind, trip.capabilities)
    rendered = provider.render_request(conversation, target)
    reader = provider.read(conversation, rendered)
    echo = Echo(
        id=client.id_prefix + trip.request_id.hex,
        created=trip.created,
        model=trip.facts.model,
        request=trip.body.fields,
        conversation=conversation,
    )
    made: list[Wrapping] = []  # the last belongs to the answer that is shown

    def wrap() -> Wrapping:
        made.append(Wrapping(sealing, account_id=trip.account_id, client_format=HUB_FORMATS[trip.surface.name], **bound_to))
        return made[-1]

    passage = Passage(
        path_of(candidate.format, upstream_model, stream=trip.facts.stream),
        orjson.dumps(rendered),
        lambda: BridgeTap(
            reader.make_parser(),
            client.make_renderer(echo),
            wrap=wrap().event,
            check=grammar.checker(trip.surface.name, str(trip.request_id)),
        ),
        lambda raw: BridgeWhole(raw, parse=reader.parse_answer, render=client.render_answer, echo=echo, wrap=wrap().answer),
        headers=_headers(candidate.format, rendered),
        dropped=tuple(dict.fromkeys(target.dropped)),
    )
    return passage, lambda: made[-1].turn if made else []


def _sealer(candidate: Candidate) -> str:
    """Who alone can open what this candidate seals: some providers bind it to their customer."""
    provider = candidate.route.provider
    return f"{provider.kind}/{provider.id}" if provider.kind in ("openai", "azure", "custom") else provider.kind


def _headers(format_name: FormatName, rendered: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if format_name != "messages":
        return ()
    headers = [("anthropic-version", anthropic_messages.version_for(rendered))]
    betas = anthropic_messages.betas_for(rendered)
    if betas:
        headers.append(("anthropic-beta", ",".join(betas)))
    return tuple(headers)
