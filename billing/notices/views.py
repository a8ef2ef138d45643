"""The page behind a mail's unsubscribe link."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from billing.notices import unsubscribing


@csrf_exempt  # a mail program posts here for its reader (RFC 8058); the signed token is the permission
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Ask on GET, since programs follow links to look at them; turn the mails off on POST."""
    try:
        if request.method == "POST":
            account, setting = unsubscribing.turn_off(token, now=timezone.now())
        else:
            account, setting = unsubscribing.read(token)
    except unsubscribing.BadLink:
        return render(request, "notices/unsubscribe.html", {"is_bad": True}, status=404)
    context = {"tenant": account.name, "words": unsubscribing.WORDS[setting], "is_done": request.method == "POST"}
    response = render(request, "notices/unsubscribe.html", context)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
