"""The documentation as the site shows it: which Markdown files are pages, each as HTML and as Markdown, and both for language models; and the
references of its APIs, beside them and in the same forms.

One source: the files of `docs/site/`, those of `docs/` that are for customers too, and the OpenAPI documents. In them `https://gateway.example` stands for this
installation and `sk-gw-…` for a key; the reader gets the address that was called, and the beginning and end of a key of theirs.
"""

import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from accounts.models import Membership, User
from accounts.pages import LAST_ACCOUNT
from accounts.permissions import Permission
from gateway_site import markdown
from gateway_site.public import openapi
from gateway_site.public.openapi import Described
from keys.models import ApiKey
from keys.playground import NAME as PLAYGROUND
from keys.snippets import origin_of

ADDRESS, KEY = re.compile(r"https://gateway\.example(?:\.com)?\b"), "sk-gw-…"
FOLDER = Path(settings.BASE_DIR) / "docs"


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the last part of its address, its file below `docs/`, and the label that the navigation gives it."""

    slug: str
    file: str
    label: str
    lead: str

    @property
    def source(self) -> str:
        """The last part of the address of the same as Markdown."""
        return f"{self.slug or 'index'}.md"


PAGES: tuple[Page, ...] = (
    Page("quickstart", "site/quickstart.md", "Quickstart", "curl, Python and Node, for each format"),
    Page(
        "libraries", "site/libraries.md", "Libraries", "LangChain, LlamaIndex, LiteLLM, Instructor, Pydantic AI, the Agents SDK, the AI SDK"
    ),
    Page("tools", "site/tools.md", "Tools", "Claude Code, Codex, Gemini CLI, OpenCode, Cursor, Continue, Open WebUI and more"),
    Page("endpoints", "site/endpoints.md", "Endpoints", "what is served where, and the kinds of keys"),
    Page("requests", "requests.md", "Routing and cost", "fallback models, preferred providers, bounds on the price, estimates"),
    Page("limits", "site/limits.md", "Limits and headers", "what limits a request, what answers say beside their body, when to try again"),
    Page("errors", "errors.md", "Errors", "every code, its cause and what helps"),
    Page("guarantees", "guarantees.md", "Who pays what when", "what is set aside before a request, and what is charged after it"),
    Page("formats", "formats.md", "Formats", "what is carried from one format to another, edited, refused or dropped"),
    Page("webhooks", "webhooks.md", "Webhooks", "what your program is told, and how it knows that it is from here"),
    Page("management-api", "management-api.md", "Management API", "keys, members, budgets and webhooks, by programs"),
)
INDEX = Page("", "site/index.md", "Overview", "where to begin")
EVERYTHING: tuple[Page | Described, ...] = (INDEX, *PAGES, *openapi.REFERENCES)
_BY_SLUG = {page.slug: page for page in PAGES}
_BY_FILE = {Path(page.file).name: page for page in (*PAGES, INDEX)}


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """The first page of the documentation."""
    return _show(request, INDEX)


@require_safe
def docs_page(request: HttpRequest, page: str) -> HttpResponse:
    """A page, or the same as Markdown when its address ends in .md."""
    if page.endswith(".md"):
        return docs_source(request, page.removesuffix(".md"))
    if page == "index":
        return redirect("docs")
    return _show(request, _find(page))


def docs_source(request: HttpRequest, page: str) -> HttpResponse:
    """A page as Markdown."""
    found = INDEX if page == "index" else _find(page)
    return _text(_source(found, origin_of(request)), "text/markdown")


@require_safe
def llms(request: HttpRequest) -> HttpResponse:
    """What a language model should read of this site, and where (https://llmstxt.org)."""
    origin = origin_of(request)
    lines = [
        "# Tollgate",
        "",
        f"> A prepaid gateway to many language models. OpenAI's clients use {origin}/v1 as their base address, Anthropic's and Google's",
        f"> {origin}. A key begins with sk-gw-. Errors have a code, a cause and a remedy.",
        "",
        "## Documentation",
        "",
        *(f"- [{page.label}]({origin}/docs/{page.source}): {page.lead}" for page in EVERYTHING),
        "",
        "## For programs",
        "",
        f"- [OpenAPI 3.1]({origin}{reverse('openapi')}): every endpoint that a key can call",
        f"- [OpenAPI 3.1 of the management API]({origin}/v1/openapi.json): every endpoint that a management key can call",
        f"- [Models]({origin}{reverse('model_list')}): what is for sale, with prices; with a key, GET {origin}/v1/models",
        "",
        "## Optional",
        "",
        f"- [Everything in one file]({origin}{reverse('llms_full')})",
    ]
    return _text("\n".join(lines) + "\n", "text/plain")


@require_safe
def llms_full(request: HttpRequest) -> HttpResponse:
    """All pages in one file, the references at its end."""
    origin = origin_of(request)
    return _text("\n\n".join(_source(page, origin) for page in EVERYTHING), "text/plain")


@require_safe
def reference(request: HttpRequest, described: Described) -> HttpResponse:
    """A reference as a page."""
    own_key = _own_key(request)
    context = {
        "page": described,
        "index": INDEX,
        "pages": PAGES,
        "references": openapi.REFERENCES,
        "reference": openapi.read(described),
        "body": _operations(described),
        "lead": markdown.render(_placed(described.text, origin_of(request)), link=partial(_link, suffix="")),
    }
    page = render_to_string("docs/reference.html", context, request)
    return HttpResponse(_placed(page, escape(origin_of(request))).replace(KEY, own_key or KEY))


@require_safe
def reference_source(request: HttpRequest, described: Described) -> HttpResponse:
    """The same as Markdown."""
    return _text(_source(described, origin_of(request)), "text/markdown")


def _find(slug: str) -> Page:
    page = _BY_SLUG.get(slug)
    if page is None:
        raise Http404
    return page


def _show(request: HttpRequest, page: Page) -> HttpResponse:
    text = _read(page)
    own_key = _own_key(request)
    text = _placed(text, origin_of(request)).replace(KEY, own_key or KEY)
    return render(
        request,
        "docs/page.html",
        {
            "page": page,
            "index": INDEX,
            "pages": PAGES,
            "references": openapi.REFERENCES,
            "title": next(heading.text for heading in markdown.headings(text)),
            "sections": [heading for heading in markdown.headings(text) if heading.level == 2][:30],
            "body": markdown.render(text, link=partial(_link, suffix="")),
            "own_key": own_key,
        },
    )


def _source(page: Page | Described, origin: str) -> str:
    text = _read(page) if isinstance(page, Page) else openapi.source(page)
    return _placed(markdown.relink(text, partial(_link, suffix=".md")), origin)


def _placed(text: str, origin: str) -> str:
    """The text with this installation's address."""
    return ADDRESS.sub(lambda _: origin, text)


@cache
def _read(page: Page) -> str:
    return (FOLDER / page.file).read_text(encoding="utf-8")


def _link(target: str, *, suffix: str) -> str | None:
    """The address of what a page links to; None for files of the project that are no pages of the site."""
    name, _, fragment = target.partition("#")
    if not name or name.startswith(("/", "https:", "http:")):
        return target
    page = _BY_FILE.get(Path(name).name)
    if page is None:
        return None
    address = f"/docs/{page.slug}{suffix}" if page.slug else f"/docs/index{suffix}" if suffix else "/docs"
    return f"{address}#{fragment}" if fragment else address


@cache
def _operations(described: Described) -> SafeString:
    return render_to_string("docs/operations.html", {"reference": openapi.read(described)})


def _own_key(request: HttpRequest) -> str | None:
    """How the newest usable key of the reader's account is recognised, if they may see its keys."""
    if not isinstance(request.user, User):
        return None
    memberships = list(Membership.objects.filter(user=request.user).order_by("pk"))
    last = request.session.get(LAST_ACCOUNT)
    here = next((each for each in memberships if each.account_id == last), memberships[0] if memberships else None)
    if here is None or not here.may(Permission.READ):
        return None
    usable = ApiKey.objects.filter(account=here.account_id, kind=ApiKey.Kind.LIVE, is_disabled=False, revoked_at=None)
    usable = usable.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now())).exclude(name=PLAYGROUND)
    key = usable.order_by("-created_at").first()
    return f"{key.start}…{key.last_four}" if key is not None else None


def _text(text: str, kind: str) -> HttpResponse:
    return HttpResponse(text, content_type=f"{kind}; charset=utf-8")
