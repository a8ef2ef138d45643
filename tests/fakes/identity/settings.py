"""The gateway's settings with Google at the fake: allauth reads Google's addresses where a site has them, and no operator needs that."""

import os

from gateway_site.settings import *  # noqa: F403
from gateway_site.settings import SOCIALACCOUNT_PROVIDERS

_FAKE = os.environ["FAKE_IDENTITY_URL"]
SOCIALACCOUNT_PROVIDERS["google"] |= {
    "AUTHORIZE_URL": f"{_FAKE}/google/auth",
    "ACCESS_TOKEN_URL": f"{_FAKE}/google/token",
    "IDENTITY_URL": f"{_FAKE}/google/userinfo",
}
SOCIALACCOUNT_REQUESTS_TIMEOUT = 2  # seconds; five otherwise
