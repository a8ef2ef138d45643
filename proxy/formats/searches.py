"""Web searches that a provider runs itself, billed apart from tokens: how many a request may cause, and how many an answer tells of. Pure.

Sources: Anthropic counts `web_search_requests`, and a search that failed is free; OpenAI charges a `web_search_call` whose action is to search,
not one that opens or reads a page; xAI tells calls of each of its tools; Google charges each query that is not empty (before Gemini 3: each
prompt that was searched for, once).
"""

from collections.abc import Mapping
from typing import Any

USUAL = 5  # what is set aside for where the request itself bounds them by nothing
MOST = 1000

_TOOLS = ("web_search", "x_search", "openrouter:web_search")
_GEMINI_TOOLS = ("googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval")
_CHARGED_ONCE = ("gemini-1", "gemini-2")


def asked(tools: Any, *, limit: Any = None) -> int:
    """How many searches these tools may run: as many as they say (`max_uses`), or as the request does (`limit`), or the usual number."""
    if not isinstance(tools, list):
        return 0
    found = 0
    for tool in tools:
        if isinstance(tool, dict) and isinstance(kind := tool.get("type"), str) and kind.startswith(_TOOLS):
            found += _bound(tool.get("max_uses"))
    return min(found, _bound(limit)) if limit is not None else min(found, MOST)


def asked_of_chat(fields: Mapping[str, Any]) -> int:
    """The same of a chat request, where searching is asked for in four ways (OpenAI, xAI, OpenRouter's plugins and its tools)."""
    if fields.get("web_search_options") is not None:
        return USUAL
    parameters = fields.get("search_parameters")
    if isinstance(parameters, dict) and parameters.get("mode") != "off":
        return USUAL
    plugins = fields.get("plugins")
    if isinstance(plugins, list) and any(isinstance(plugin, dict) and plugin.get("id") == "web" for plugin in plugins):
        return USUAL
    return asked(fields["tools"]) if "tools" in fields else 0


def asked_of_gemini(tools: Any) -> int:
    """The same of a Gemini request."""
    if isinstance(tools, list) and any(isinstance(tool, dict) and any(name in tool for name in _GEMINI_TOOLS) for tool in tools):
        return USUAL
    return 0


def is_response_search(item: Mapping[str, Any]) -> bool:
    """Whether an item of a response is a search, not the opening of a page it found."""
    action = item.get("action")
    kind = action.get("type", "search") if isinstance(action, dict) else "search"
    return item.get("type") == "web_search_call" and kind == "search" and item.get("status") != "failed"


def count_queries(candidate: Mapping[str, Any], *, model: str) -> int:
    """How many searches stand behind a candidate of Gemini's; `model` is the answer's `modelVersion`."""
    grounding = candidate.get("groundingMetadata")
    queries = grounding.get("webSearchQueries") if isinstance(grounding, dict) else None
    if not isinstance(queries, list):
        return 0
    found = len({query for query in queries if isinstance(query, str) and query})
    return min(found, 1) if model.startswith(_CHARGED_ONCE) else found


def _bound(limit: Any) -> int:
    return min(limit, MOST) if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else USUAL
