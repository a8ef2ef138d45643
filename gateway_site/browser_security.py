"""What every page allows the browser: nothing from elsewhere, no inline script or style, no device, no copy in a cache."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

# Where a form may lead: payments, and the sign-in pages of others where they are configured.
_ELSEWHERE = [
    "https://checkout.stripe.com",
    "https://billing.stripe.com",
    *([settings.STRIPE_API_BASE] if settings.STRIPE_SIMULATED else []),
    *(["https://accounts.google.com"] if settings.GOOGLE_CLIENT_ID else []),
    *([settings.GITHUB_URL] if settings.GITHUB_CLIENT_ID else []),
]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    f"form-action 'self' {' '.join(_ELSEWHERE)}; frame-ancestors 'none'; base-uri 'none'"
)
PERMISSIONS = "camera=(), microphone=(), geolocation=(), usb=(), payment=()"
# The admin theme evaluates Alpine expressions and sets styles inline; it is for staff only and shows no stranger's markup unescaped.
ADMIN_POLICY = POLICY.replace("script-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval'").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)


class ContentSecurityPolicyMiddleware:
    """Adds the policies to every answer that has none."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        policy = ADMIN_POLICY if request.path.startswith(f"/{settings.ADMIN_PATH}/") else POLICY
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        if request.user.is_authenticated if hasattr(request, "user") else False:
            response.headers.setdefault("Cache-Control", "no-store")
        return response
