"""Facts about the log: what looks like a secret is not in it."""

import pytest

from gateway_site import logs


@pytest.mark.parametrize(
    "secret",
    [
        "sk-gw-1a2BcDeFgHiJkLmNoPqRsTuVwXyZ",
        "sk-proj-abcdefghijklmnop",
        "sk_live_51abcdefghijklmnop",
        "rk_test_51abcdefghijklmnop",
        "whsec_abcdefghijklmnop",
        "Bearer abcdefghijklmnop",
        "/invitations/Zk3abcdefghijklmnop",
        "/user/password/reset/key/a-abcdefghijklmnop/",
    ],
)
def test_a_secret_is_cut_off(secret: str) -> None:
    written = logs.redact(f"went wrong with {secret} at noon")
    assert secret[-10:] not in written
    assert written.startswith("went wrong with ") and written.endswith(" at noon")
