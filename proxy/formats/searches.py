"""Web searches that a provider runs itself, billed apart from tokens: how many a request may cause, and how many an answer tells of. Pure.

Sources: Anthropic counts `web_search_requests`, and a search that failed is free; OpenAI charges a `web_search_call` whose action is to search,
not one that opens or reads a page; xAI tells calls of each of its tools; Google charges each query that is not empty (before Gemini 3: each
prompt that was searched for, once).
"""

from collections.abc import Mapping
from typing import Any

from proxy.formats.openai_chat_fields import dicts_of

USUAL = 5  # what is set aside for where the request itself bounds them by nothing
MOST = 1000
TOKENS_EACH = 8000  # of input: what a search finds is read (recorded: 7,744 tokens after one search, 43,902 after seven)

_TOOLS = ("web_search", "x_search", "openrouter:web_search")
_GEMINI_TOOLS = ("googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval")
_CHARGED_ONCE = ("gemini-1", "gemini-2")


def asked(tools: Any, *, limit: Any = None) -> int:
    """How many searches these tools may run: as many as they say (`max_uses`), or as the request does (`limit`), or the usual number."""
    bounds = [
        _bound(tool.get("max_uses")) for tool in dicts_of(tools) if isinstance(kind := tool.get("type"), str) and kind.startswith(_TOOLS)
    ]
    if not bounds:
        return 0
    total, most = sum(bound or 0 for bound in bounds), _bound(limit)
    if most is not None:
        return most if None in bounds else min(total, most)
    return min(total + (USUAL if None in bounds else 0), MOST)


def asked_of_chat(fields: Mapping[str, Any]) -> int:
    """The same of a chat request, where searching is asked for in four ways (OpenAI, xAI, OpenRouter's plugins and its tools)."""
    if fields.get("web_search_options") is not None:
        return USUAL
    parameters = fields.get("search_parameters")
    if isinstance(parameters, dict) and parameters.get("mode") != "off":
        return USUAL
    if "plugins" in fields and any(plugin.get("id") == "web" for plugin in dicts_of(fields["plugins"])):
        return USUAL
    return asked(fields["tools"]) if "tools" in fields else 0


def asked_of_gemini(tools: Any) -> int:
    """The same of a Gemini request, whose tools may be an object as well."""
    given = [tools] if isinstance(tools, dict) else dicts_of(tools)
    return USUAL if any(name in tool for tool in given for name in _GEMINI_TOOLS) else 0


def is_response_search(item: Any) -> bool:
    """Whether an item of a response is a search that was made, not the opening of a page it found."""
    if not isinstance(item, dict) or item.get("type") != "web_search_call" or item.get("status") == "failed":
        return False
    action = item.get("action")
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def is_messages_search(block: Any) -> bool:
    """Whether a block of an Anthropic answer is what a search found: in the place of a failed one's list stands an error."""
    return isinstance(block, dict) and block.get("type") == "web_search_tool_result" and isinstance(block.get("content"), list)


def queries_of(candidate: Mapping[str, Any]) -> set[str]:
    """What was searched for behind a candidate of Gemini's."""
    grounding = candidate.get("groundingMetadata")
    queries = grounding.get("webSearchQueries") if isinstance(grounding, dict) else None
    return {query for query in queries if isinstance(query, str) and query} if isinstance(queries, list) else set()


def charged_by_google(queries: set[str], *, model: Any) -> int:
    """How many searches these are to Google; `model` is the answer's `modelVersion`."""
    return min(len(queries), 1) if isinstance(model, str) and model.startswith(_CHARGED_ONCE) else len(queries)


def _bound(limit: Any) -> int | None:
    return min(limit, MOST) if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else None
