"""Whose word counts for where a request comes from, on both planes."""

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.conftest import Customer, Gateway

CLAIM = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9"}
ASK = {"model": "no/such-model", "messages": [{"role": "user", "content": "hi"}]}


def codes(gateway: Gateway, customer: Customer) -> tuple[int, int]:
    """What the control plane and the data plane answer to a request that claims to come from 203.0.113.9."""
    headers = {**customer.headers, **CLAIM}
    with httpx.Client() as client:
        return (
            client.get(f"{gateway.base_url}/key", headers=headers).status_code,
            client.post(f"{gateway.base_url}/chat/completions", headers=headers, json=ASK).status_code,
        )


def test_what_a_client_claims_is_not_believed(gateway: Gateway, new_customer: Callable[..., Customer]) -> None:
    assert codes(gateway, new_customer(allowed_ips=["203.0.113.0/24"])) == (403, 403)
    assert codes(gateway, new_customer(allowed_ips=["127.0.0.1"])) == (200, 404)


def test_a_trusted_proxys_own_word_is_believed(new_customer: Callable[..., Customer], tmp_path: Path) -> None:
    behind = Gateway(tmp_path / "gateway.log", {"TRUSTED_PROXIES": "127.0.0.1"}).start()
    try:
        assert codes(behind, new_customer(allowed_ips=["203.0.113.0/24"])) == (200, 404)
        assert codes(behind, new_customer(allowed_ips=["6.6.6.6"])) == (403, 403)
    finally:
        behind.stop()
