"""Every address the site serves, and who may call it. The tests walk the URL table and fail for a route that is not declared here.

A policy is what the generated tests of `test_every_tenant_route_has_a_stranger_test` hold a route to:
`public` nothing is asked; `key` an API key, and it shows only what belongs to the key's account; `session` a signed-in person;
`account` a member of the account in the address, whose role grants `permission` (`post` for anything but GET and HEAD);
`staff` a signed-in person of the operator's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from accounts.permissions import Permission

Policy = Literal["public", "key", "session", "account", "staff"]


@dataclass(frozen=True)
class Call:
    """One way to call a route. `{request_id}`, `{key_id}`, `{response_id}`, `{model}`, `{embedding_model}` and `{image_model}` in it stand
    for the owner's.

    `owner_sees` names the markers (of `OWNER_MARKERS`) that the owner's answer has in it: without any, a stranger's answer that has none of
    them would prove nothing. The owner calls after the stranger and gets `owner_status`: what the stranger did has changed nothing.
    `plane` says who serves it: Django, or the data plane in front of it. `management`: it is called with management keys.
    """

    path: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    owner_sees: tuple[str, ...] = ()
    owner_status: int = 200
    plane: Literal["control", "data"] = "control"
    management: bool = False


@dataclass(frozen=True)
class Route:
    """A route's policy, and for those that need a key how to call it.

    Of an `account` route: the permissions that its page declares, whether it answers nothing but POST, and what to fill in for variables of
    its address beside the slug (1 without).
    """

    policy: Policy
    calls: tuple[Call, ...] = ()
    permission: Permission | None = None
    post: Permission | None = None
    only_post: bool = False
    filled: Mapping[str, str] = field(default_factory=dict)


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
    "models": Route("public"),
    "models/<path:name>": Route("public"),
    "status": Route("public"),
    "docs": Route("public"),
    "docs/reference": Route("public"),
    "docs/reference.md": Route("public"),
    "docs/reference/management": Route("public"),
    "docs/reference/management.md": Route("public"),
    "docs/<str:page>": Route("public"),
    "openapi.json": Route("public"),
    "llms.txt": Route("public"),
    "llms-full.txt": Route("public"),
    "webhooks/stripe": Route("public"),
    "webhooks/stripe/": Route("public"),
    "unsubscribe/<str:token>": Route("public"),  # the signed token is what is asked for
    "announcements/dismiss": Route("public", only_post=True),  # it only writes the browser's own cookie
}

# Signing in and up, and what a stranger is told on the way.
ROUTES |= {
    f"user/{_address}": Route("public")
    for _address in (
        "login/",
        "logout/",
        "inactive/",
        "signup/",
        "confirm-email/",
        "password/reset/",
        "password/reset/done/",
        "password/reset/key/done/",
        "^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        "login/code/confirm/",
        "2fa/authenticate/",
        "2fa/webauthn/login/",
        "3rdparty/login/cancelled/",
        "3rdparty/login/error/",
        "3rdparty/signup/",
        "social/login/cancelled/",
        "social/login/error/",
        "social/signup/",
        "social/connections/",
    )
}
ROUTES["invitations/<str:secret>"] = Route("public")  # the link's secret is what is asked for
# A person's own pages.
ROUTES |= {
    f"user/{_address}": Route("session")
    for _address in (
        "profile",
        "reauthenticate/",
        "email/",
        "password/change/",
        "password/set/",
        "2fa/",
        "2fa/reauthenticate/",
        "2fa/totp/activate/",
        "2fa/totp/deactivate/",
        "2fa/recovery-codes/",
        "2fa/recovery-codes/generate/",
        "2fa/recovery-codes/download/",
        "2fa/webauthn/",
        "2fa/webauthn/add/",
        "2fa/webauthn/reauthenticate/",
        "2fa/webauthn/keys/<int:pk>/remove/",
        "2fa/webauthn/keys/<int:pk>/edit/",
        "3rdparty/",
        "sessions/",
    )
}
ROUTES["accounts/new"] = Route("session")
# An account's pages: each with the permission that it asks of a member's role.
ROUTES |= {
    "a/<slug:slug>": Route("public"),  # only leads to the address with the slash
    "a/<slug:slug>/": Route("account", permission=Permission.READ),
    "a/<slug:slug>/members": Route("account", permission=Permission.READ, post=Permission.MANAGE_MEMBERS),
    "a/<slug:slug>/members/<int:member_id>/role": Route("account", permission=Permission.MANAGE_MEMBERS, only_post=True),
    "a/<slug:slug>/members/<int:member_id>/remove": Route("account", permission=Permission.READ, only_post=True),
    "a/<slug:slug>/invitations/<int:invitation_id>/revoke": Route("account", permission=Permission.MANAGE_MEMBERS, only_post=True),
    "a/<slug:slug>/settings": Route("account", permission=Permission.MANAGE_ACCOUNT),
    "a/<slug:slug>/audit-log": Route("account", permission=Permission.MANAGE_MEMBERS),
    "a/<slug:slug>/playground": Route("account", permission=Permission.MANAGE_KEYS),
    "a/<slug:slug>/playground/key": Route("account", permission=Permission.MANAGE_KEYS, only_post=True),
    "a/<slug:slug>/remove-sample": Route("account", permission=Permission.MANAGE_ACCOUNT, only_post=True),
    "a/<slug:slug>/close": Route("account", permission=Permission.MANAGE_ACCOUNT),
    "a/<slug:slug>/first-steps": Route("account", permission=Permission.READ),
    "a/<slug:slug>/first-steps/hide": Route("account", permission=Permission.READ, only_post=True),
    "a/<slug:slug>/keys": Route("account", permission=Permission.READ),
    "a/<slug:slug>/keys/new": Route("account", permission=Permission.MANAGE_KEYS),
    "a/<slug:slug>/keys/<int:key_id>": Route("account", permission=Permission.READ),
    "a/<slug:slug>/keys/<int:key_id>/first-request": Route("account", permission=Permission.READ),
    "a/<slug:slug>/keys/<int:key_id>/change": Route("account", permission=Permission.MANAGE_KEYS),
    "a/<slug:slug>/keys/<int:key_id>/switch": Route("account", permission=Permission.MANAGE_KEYS, only_post=True),
    "a/<slug:slug>/keys/<int:key_id>/reroll": Route("account", permission=Permission.MANAGE_KEYS, only_post=True),
    "a/<slug:slug>/keys/<int:key_id>/revoke": Route("account", permission=Permission.MANAGE_KEYS, only_post=True),
    "a/<slug:slug>/usage": Route("account", permission=Permission.READ),
    "a/<slug:slug>/usage/table.csv": Route("account", permission=Permission.READ),
    "a/<slug:slug>/usage/table.json": Route("account", permission=Permission.READ),
    "a/<slug:slug>/requests": Route("account", permission=Permission.READ),
    "a/<slug:slug>/requests/<str:request_id>": Route("account", permission=Permission.READ),
    "a/<slug:slug>/requests/<str:request_id>/content": Route("account", permission=Permission.READ_CONTENT),
    "a/<slug:slug>/requests/<str:request_id>/content/delete": Route("account", permission=Permission.READ_CONTENT, only_post=True),
    "a/<slug:slug>/settings/stored-content": Route("account", permission=Permission.MANAGE_ACCOUNT, only_post=True),
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

for _address in ("v1/estimate", "api/v1/estimate"):
    ROUTES[_address] = Route("key", (Call(f"/{_address}", "POST", body=_CHAT, plane="data"),))

for _address in ("v1/messages/count_tokens", "api/v1/messages/count_tokens"):
    ROUTES[_address] = Route("key", (Call(f"/{_address}", "POST", body=_CHAT, plane="data"),))

# The owner's model is not one of Gemini's: its native methods refuse it.
ROUTES["v1beta/models/<path:model>:<str:method>"] = Route(
    "key",
    tuple(
        Call(f"/{_prefix}/models/{{{_model}}}:{_method}", "POST", body=_body, owner_status=400, plane="data")
        for _prefix in ("v1beta", "v1")
        for _model, _method, _body in (
            ("model", "fetchPredictOperation", {"operationName": "models/a"}),
            ("model", "generateContent", {"contents": "Hello!"}),
            ("model", "countTokens", {"contents": "Hello!"}),
            ("embedding_model", "embedContent", {"content": {"parts": [{"text": "Hello!"}]}}),
            ("image_model", "predict", {"instances": [{"prompt": "a cat"}]}),
        )
    ),
)
ROUTES["v1beta1/publishers/google/models/<path:model>:<str:method>"] = Route(
    "key",
    (
        *(
            Call(f"/{_place}/models/{{model}}:generateContent", "POST", body={"contents": "Hello!"}, owner_status=400, plane="data")
            for _place in ("v1beta1/publishers/google", "v1/publishers/google", "v1/projects/p/locations/l/publishers/google")
        ),
        Call(
            "/v1beta1/publishers/google/models/{model}:fetchPredictOperation",
            "POST",
            body={"operationName": "publishers/google/models/{model}/operations/gw1.1.AAAA"},
            owner_status=404,
            plane="data",
        ),
    ),
)
# Who was not given a name finds nothing, the owner of a model included; what an account sees of its own is tested with videos.
for _address, _path in (
    ("models/<path:model>/operations/<str:operation>", "models/{model}/operations/gw1.1.AAAA"),
    ("operations/<str:operation>", "operations/gw1.1.AAAA"),
    ("files/<str:file>:download", "files/m53tcljrfzaucqkb:download"),
):
    ROUTES[f"v1beta/{_address}"] = Route(
        "key", tuple(Call(f"/{_prefix}/{_path}", owner_status=404, plane="data") for _prefix in ("v1beta", "v1"))
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

ROUTES |= {
    f"a/<slug:slug>/{_address}": Route("session")
    for _address in (
        "usage.csv",
        "usage.jsonl",
    )
}

_READ, _MANAGE = Permission.READ, Permission.MANAGE_BILLING
_UUID = "00000000-0000-4000-8000-000000000001"
ROUTES |= {
    f"a/<slug:slug>/{_address}": Route("account", permission=_READ)
    for _address in ("billing", "billing/plan", "billing/ledger", "billing/statements", "billing/statements/<str:month>")
}
ROUTES |= {
    f"a/<slug:slug>/{_address}": Route("account", permission=_READ, post=_MANAGE)
    for _address in ("billing/top-ups", "billing/auto-top-up", "billing/credits", "billing/alerts", "webhooks")
}
ROUTES |= {
    f"a/<slug:slug>/{_address}": Route("account", permission=_MANAGE, only_post=True)
    for _address in (
        "billing/auto-top-up/off",
        "billing/card",
        "billing/card/remove",
        "billing/plan/cancel",
        "billing/plan/resume",
        "billing/plan/pay",
    )
}
ROUTES |= {
    f"a/<slug:slug>/billing/{_address}": Route("account", permission=_MANAGE)
    for _address in ("ledger.csv", "ledger.jsonl", "plan/change/<slug:plan_slug>")
}
for _address, _name in (
    ("billing/top-ups/<uuid:top_up_id>", "top_up_id"),
    ("billing/plan/purchases/<uuid:subscription_id>", "subscription_id"),
):
    ROUTES[f"a/<slug:slug>/{_address}"] = Route("account", permission=_READ, filled={_name: _UUID})
ROUTES["a/<slug:slug>/webhooks/<uuid:endpoint_id>"] = Route("account", permission=_READ, post=_MANAGE, filled={"endpoint_id": _UUID})
ROUTES |= {
    f"a/<slug:slug>/webhooks/<uuid:endpoint_id>/{_deed}": Route(
        "account", permission=_MANAGE, only_post=True, filled={"endpoint_id": _UUID}
    )
    for _deed in ("secret", "enable", "disable", "remove", "test")
}

# The management API. What is named in an address is made anew for each call.
_ENDPOINT = {"url": "https://hooks.example.com/tollgate"}
for _prefix in ("v1", "api/v1"):
    ROUTES[f"{_prefix}/openapi.json"] = Route("public")
    for _address, _calls in {
        "keys": (Call("keys", owner_sees=("key_name", "key_start")), Call("keys", "POST", body={"name": "made"}, owner_status=201)),
        "keys/<int:key_id>": (
            Call("keys/{key_id}", owner_sees=("key_name", "key_start")),
            Call("keys/{made_key_id}", "PATCH", body={"rpm": 5}),
            Call("keys/{made_key_id}", "DELETE"),
        ),
        "keys/<int:key_id>/reroll": (Call("keys/{made_key_id}/reroll", "POST", body={}, owner_status=201),),
        "budgets": (Call("budgets", owner_sees=("key_name", "key_start")),),
        "ledger": (Call("ledger", owner_sees=("cost",)),),
        "members": (
            Call("members", owner_sees=("user",)),
            Call("members", "POST", body={"email": "{address}"}, owner_status=201),
        ),
        "members/<int:member_id>": (
            Call("members/{member_id}", "PATCH", body={"role": "viewer"}),
            Call("members/{member_id}", "DELETE"),
        ),
        "invitations/<int:invitation_id>": (Call("invitations/{invitation_id}", "DELETE"),),
        "webhook-endpoints": (Call("webhook-endpoints"), Call("webhook-endpoints", "POST", body=_ENDPOINT, owner_status=201)),
        "webhook-endpoints/<uuid:endpoint_id>": (
            Call("webhook-endpoints/{endpoint_id}"),
            Call("webhook-endpoints/{endpoint_id}", "PATCH", body={"events": []}),
            Call("webhook-endpoints/{endpoint_id}", "DELETE"),
        ),
        "webhook-endpoints/<uuid:endpoint_id>/rotate-secret": (
            Call("webhook-endpoints/{endpoint_id}/rotate-secret", "POST", body={}, owner_status=201),
        ),
        "webhook-endpoints/<uuid:endpoint_id>/test": (Call("webhook-endpoints/{endpoint_id}/test", "POST", body={}, owner_status=202),),
    }.items():
        ROUTES[f"{_prefix}/{_address}"] = Route(
            "key", tuple(replace(_call, path=f"/{_prefix}/{_call.path}", management=True) for _call in _calls)
        )
