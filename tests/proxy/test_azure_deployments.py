"""Azure's two kinds of address: the v1 one, and the older one by deployment where the provider has an API version."""

import uuid
from typing import Any

import httpx
import pytest
from django.utils import timezone

from catalog import manifest
from catalog.models import Provider, Route
from proxy.providers.base import deployment_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/chat/completions", "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"),
        ("/completions", "/openai/deployments/my%20gpt/completions?api-version=2024-10-21"),
        ("/embeddings", "/openai/deployments/my%20gpt/embeddings?api-version=2024-10-21"),
        ("/images/generations", "/openai/deployments/my%20gpt/images/generations?api-version=2024-10-21"),
        ("/responses", "/openai/responses?api-version=2024-10-21"),
    ],
)
def test_a_deployment_stands_in_the_address(path: str, expected: str) -> None:
    assert deployment_path(path, "my gpt", api_version="2024-10-21") == expected


@pytest.mark.parametrize(
    ("kind", "api_version", "expected"),
    [
        ("azure", "2024-10-21", "/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"),
        ("azure", "", "/chat/completions"),
        ("custom", "2024-10-21", "/chat/completions"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chat_goes_to_the_deployment_where_there_is_an_api_version(
    provider: Any, gateway: Any, customer: Any, new_model: Any, usage_of: Any, kind: str, api_version: str, expected: str, stream: bool
) -> None:
    deployment = f"gpt-{uuid.uuid4().hex}"
    slug = new_model(deployment, kind=kind, route_format="chat")
    row = Route.objects.get(model__slug=slug).provider
    Provider.objects.filter(pk=row.pk).update(base_url=provider.origin, api_version=api_version)
    gateway.sees_catalog()
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions",
        json={"model": slug, "messages": [{"role": "user", "content": "hi"}], "stream": stream},
        headers=customer.headers,
        timeout=30,
    )
    assert answer.status_code == 200
    assert usage_of(answer.headers["x-request-id"]).cost > 0
    seen = provider.wait_for(lambda request: deployment.encode() in request.body)
    assert seen.path == expected.format(deployment=deployment)
    signed = {name.lower() for name in dict(seen.headers)}
    assert ("api-key" in signed) == (kind == "azure")


def test_a_manifest_says_the_api_version() -> None:
    slug = f"p-{uuid.uuid4().hex[:12]}"
    text = f"providers: [{{slug: {slug}, kind: azure, base_url: 'https://x.openai.azure.com', api_version: 2024-10-21}}]"
    now = timezone.now()
    assert [str(change) for change in manifest.apply(manifest.read(text), now=now, dry_run=False)] == [f"+ provider {slug}"]
    assert Provider.objects.get(slug=slug).api_version == "2024-10-21"
    assert manifest.apply(manifest.read(text), now=now, dry_run=False) == []
    with pytest.raises(manifest.InvalidDocument, match="api_version"):
        manifest.read(text.replace("2024-10-21", "'a?b=c'"))
