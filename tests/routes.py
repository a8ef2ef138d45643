"""Every address the site serves, and who may call it. The tests walk the URL table and fail for a route that is not declared here.

A policy is what the generated tests of `test_every_tenant_route_has_a_stranger_test` hold a route to:
`public` nothing is asked; `key` an API key, and it shows only what belongs to the key's account; `session` a signed-in person;
`staff` a signed-in person of the operator's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = Literal["public", "key", "session", "staff"]


@dataclass(frozen=True)
class Call:
    """One way to call a route. `{request_id}`, `{key_id}`, `{response_id}`, `{model}`, `{embedding_model}` and `{image_model}` in it stand
    for the owner's.

    `owner_sees` names the markers (of `OWNER_MARKERS`) that the owner's answer has in it: without any, a stranger's answer that has none of
    them would prove nothing. The owner calls after the stranger and gets `owner_status`: what the stranger did has changed nothing.
    `plane` says who serves it: Django, or the data plane in front of it.
    """

    path: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    owner_sees: tuple[str, ...] = ()
    owner_status: int = 200
    plane: Literal["control", "data"] = "control"


@dataclass(frozen=True)
class Route:
    """A route's policy, and for those that need a key how to call it."""

    policy: Policy
    calls: tuple[Call, ...] = ()


OWNER_MARKERS = ("account", "key_name", "key_start", "user", "model", "request_id", "cost", "said")

# Whole namespaces: every route in them, however many.
NAMESPACES: dict[str, Policy] = {"admin": "staff"}
SIGN_IN_PAGES = {"admin:login"}

ROUTES: dict[str, Route] = {
    "": Route("public"),
    "healthz": Route("public"),
    "readyz": Route("public"),
    "metrics": Route("public"),
    "admin": Route("public"),
    "docs/errors": Route("public"),
}

_CHAT: dict[str, Any] = {"model": "{model}", "messages": [{"role": "user", "content": "Hello!"}]}
_COMPLETION: dict[str, Any] = {"model": "{model}", "prompt": "Hello!"}
_EMBEDDING: dict[str, Any] = {"model": "{embedding_model}", "input": "Hello!"}
_IMAGE: dict[str, Any] = {"model": "{image_model}", "prompt": "a cat", "size": "16x16"}
for _address, _body in (
    ("v1/chat/completions", _CHAT),
    ("api/v1/chat/completions", _CHAT),
    ("api/v1/chat", _CHAT),
    ("v1/completions", _COMPLETION),
    ("api/v1/completions", _COMPLETION),
):
    ROUTES[_address] = Route(
        "key",
        (
            Call(f"/{_address}", "POST", body=_body, plane="data"),
            Call(f"/{_address}", "POST", body={**_body, "stream": True}, plane="data"),
        ),
    )
_MESSAGE = {**_CHAT, "max_tokens": 16}
for _address, _body in (
    ("v1/messages", _MESSAGE),
    ("api/v1/messages", _MESSAGE),
    ("v1/responses", {"model": "{model}", "input": "Hello!"}),
    ("api/v1/responses", {"model": "{model}", "input": "Hello!"}),
    ("v1/embeddings", _EMBEDDING),
    ("api/v1/embeddings", _EMBEDDING),
    ("v1/images/generations", _IMAGE),
    ("api/v1/images/generations", _IMAGE),
):
    ROUTES[_address] = Route("key", (Call(f"/{_address}", "POST", body=_body, plane="data"),))

for _address in ("v1/messages/count_tokens", "api/v1/messages/count_tokens"):
    ROUTES[_address] = Route("key", (Call(f"/{_address}", "POST", body=_CHAT, plane="data"),))

# The owner's model is not one of Gemini's: its native methods refuse it.
ROUTES["v1beta/models/<path:model>:<str:method>"] = Route(
    "key",
    tuple(
        Call(f"/{_prefix}/models/{{{_model}}}:{_method}", "POST", body=_body, owner_status=400, plane="data")
        for _prefix in ("v1beta", "v1")
        for _model, _method, _body in (
            ("model", "generateContent", {"contents": "Hello!"}),
            ("model", "countTokens", {"contents": "Hello!"}),
            ("embedding_model", "embedContent", {"content": {"parts": [{"text": "Hello!"}]}}),
            ("image_model", "predict", {"instances": [{"prompt": "a cat"}]}),
        )
    ),
)
ROUTES["v1beta/models"] = Route("key", (Call("/v1beta/models"),))
ROUTES["v1beta/models/<path:name>"] = Route("key", (Call("/v1beta/models/{model}"),))

for _prefix in ("v1", "api/v1"):
    ROUTES |= {
        f"{_prefix}/models": Route("key", (Call(f"/{_prefix}/models"),)),
        f"{_prefix}/models/<path:name>": Route("key", (Call(f"/{_prefix}/models/{{model}}"),)),
        f"{_prefix}/usage": Route(
            "key",
            (
                Call(f"/{_prefix}/usage", owner_sees=("model", "cost")),
                Call(f"/{_prefix}/usage", query={"group_by": "day"}, owner_sees=("cost",)),
                Call(f"/{_prefix}/usage", query={"group_by": "hour"}, owner_sees=("cost",)),
                Call(f"/{_prefix}/usage", query={"group_by": "key"}, owner_sees=("key_name", "key_start")),
                Call(f"/{_prefix}/usage", query={"group_by": "user"}, owner_sees=("user",)),
                Call(f"/{_prefix}/usage", query={"key": "{key_id}"}, owner_sees=("model", "cost")),
                Call(f"/{_prefix}/usage", query={"format": "csv"}, owner_sees=("model", "cost")),
                Call(f"/{_prefix}/usage", query={"format": "csv", "group_by": "key"}, owner_sees=("key_name",)),
                Call(f"/{_prefix}/usage", query={"format": "csv", "group_by": "user"}, owner_sees=("user",)),
            ),
        ),
        f"{_prefix}/credits": Route("key", (Call(f"/{_prefix}/credits", owner_sees=("cost",)),)),
        f"{_prefix}/key": Route("key", (Call(f"/{_prefix}/key", owner_sees=("account", "key_name", "key_start")),)),
        f"{_prefix}/generation": Route(
            "key",
            (
                Call(
                    f"/{_prefix}/generation",
                    query={"id": "{request_id}"},
                    owner_sees=("request_id", "model", "user", "cost", "key_name", "key_start"),
                ),
            ),
        ),
        f"{_prefix}/responses/<str:response_id>": Route(
            "key",
            (
                Call(f"/{_prefix}/responses/{{response_id}}", owner_sees=("said",)),
                Call(f"/{_prefix}/responses/{{response_id}}", "DELETE"),
            ),
        ),
        f"{_prefix}/responses/<str:response_id>/input_items": Route(
            "key", (Call(f"/{_prefix}/responses/{{response_id}}/input_items", owner_sees=("said",)),)
        ),
        f"{_prefix}/responses/<str:response_id>/cancel": Route(
            "key", (Call(f"/{_prefix}/responses/{{response_id}}/cancel", "POST", owner_status=400),)
        ),
        f"{_prefix}/responses/input_tokens": Route(
            "key",
            (Call(f"/{_prefix}/responses/input_tokens", "POST", body={"previous_response_id": "{response_id}", "input": "Go on."}),),
        ),
    }
