"""Writes `docs/errors.md`, the page that every error's `help_url` points into, from the one table of errors (`proxy.errors`).

`python -m tools.build_error_docs` writes it; with `--check` it writes nothing and exits with 1 if the page is not what it would write.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.errors import Entry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"

_NAMED = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")  # a code that a row's own text says it turns into

_HEAD = """\
# Errors

<!-- Written by `python -m tools.build_error_docs` from the table in proxy/errors/: change that, not this page. -->

Every error has a status, a `type` (the family), a `code` (the one to program against) and a `message` for people:

```json
{
  "success": false,
  "code": "INSUFFICIENT_CREDITS",
  "error": {
    "message": "Insufficient balance: $0.000012 is free and this request needs at least $0.0021. Top up to continue.",
    "type": "insufficient_quota",
    "param": null,
    "code": "insufficient_quota",
    "request_id": "01940d2f-9c1e-7b7e-8a51-0f6a3f8f2f10",
    "help_url": "/docs/errors#insufficient_quota"
  }
}
```

`request_id` is also in the headers `x-request-id` and `request-id`; give it to the operator when something is unclear. When waiting helps,
`retry-after` (seconds) and `retry-after-ms` say how long. `x-should-retry: false` stands where it does not, so that SDKs which retry
a 402 or 429 by themselves leave it. A refusal by the provider keeps the provider's status (400, 404, 413 or 422).

An error in the middle of a stream cannot have a status any more: it is an event with the same body, which OpenAI's SDKs raise, and then
`[DONE]`. Nothing before it pretends that the answer was complete. What was delivered until then is charged; who pays what when is in
[guarantees.md](guarantees.md).

| status | code | type | when |
|---|---|---|---|
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.build_error_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = parser.parse_args(arguments)
    _set_up()
    page = render()
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(f"{PAGE} is not what proxy/errors/ says: run `python -m tools.build_error_docs`\n")
    return 1


def render() -> str:
    """Make the page from the table. Django must be set up."""
    from proxy import errors  # not above: it imports models, which need Django

    entries = [*errors.TABLE.values(), errors.INTERNAL]
    codes: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.status):
        for code in (entry.code, *_NAMED.findall(entry.when)):
            codes.setdefault(code, []).append(entry)
    rows = [
        f"| {'/'.join(map(str, _statuses(found)))} | [`{code}`](#{code}) | `{found[0].type}` | {_once(entry.when for entry in found)} |"
        for code, found in codes.items()
    ]
    return _HEAD + "\n".join(rows) + "\n" + "".join(_section(code, found) for code, found in codes.items())


def _section(code: str, found: "list[Entry]") -> str:
    statuses = " or ".join(map(str, _statuses(found)))
    types = _once(f"`{entry.type}`" for entry in found)
    labels = _once(f"`{entry.label}`" for entry in found)
    lines = [f'\n<a id="{code}"></a>\n\n## `{code}`\n', f"Status {statuses}, type {types}, envelope code {labels}.\n"]
    for when, remedy in dict.fromkeys((entry.when, entry.remedy) for entry in found):
        lines += [f"- **When:** {when}", f"  **What helps:** {remedy}"]
    return "\n".join(lines) + "\n"


def _statuses(found: "list[Entry]") -> list[int]:
    return list(dict.fromkeys(entry.status for entry in found))


def _once(texts: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(texts))


def _set_up() -> None:
    """Let Django load the models that the conditions live beside. Nothing is connected to, so any addresses will do."""
    unused = {
        "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
        "SECRET_KEY": "unused",
        "DATABASE_URL": "postgres://127.0.0.1:1/unused",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    for name, value in unused.items():
        os.environ.setdefault(name, value)
    import django

    django.setup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
