"""Markdown to HTML, as much of it as our own pages use: headings, paragraphs, lists, tables, fenced code, notes, links, `code`, **strong**.

For our own text only. Everything is escaped; there is no raw HTML but `<a id="…">`, and a link leads where `link` says (nowhere: its text).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

_FENCE = re.compile(r"^( *)```(\S*)\s*$")
_HEADING = re.compile(r"^(#{1,4}) +(.+?) *$")
_ITEM = re.compile(r"^( *)([-*]|\d+\.) +(.*)$")
_RULE = re.compile(r"^\|?[ :|-]*-[ :|-]*$")
_ANCHOR = re.compile(r'^<a id="([\w-]+)"></a>$')
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_CELL = re.compile(r"(?<!\\)\|")
_INLINE = re.compile(r"(?P<code>`[^`]+`)|\*\*(?P<strong>.+?)\*\*|\[(?P<label>(?:`[^`]*`|[^\[\]`])+)\]\((?P<target>[^)\s]+)\)")

LinkTo = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: its level (1 to 4), its text, and the id that links to it end in."""

    level: int
    text: str
    id: str


@dataclass(slots=True)
class _Page:
    link: LinkTo
    blocks: int = 0
    ids: set[str] = field(default_factory=set)


def anchor(title: str) -> str:
    """The id of a heading, as the usual Markdown viewers make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def headings(text: str) -> list[Heading]:
    """Every heading of a page, in order."""
    found, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and (match := _HEADING.match(line)):
            found.append(Heading(len(match[1]), _plain(match[2]), anchor(match[2])))
    return found


def relink(text: str, link: LinkTo) -> str:
    """The same Markdown with other targets of its links; a link that leads nowhere becomes its text."""

    def replaced(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]
        target = link(match["target"])
        return match["label"] if target is None else f"[{match['label']}]({target})"

    parts, fenced = [], False
    for line in _COMMENT.sub("", text).splitlines():
        fenced ^= bool(_FENCE.match(line))
        parts.append(line if fenced else _INLINE.sub(replaced, line))
    return "\n".join(parts) + "\n"


def render(text: str, *, link: LinkTo = lambda target: target) -> SafeString:
    """Render a page. `link` gives the address that a link's target stands for, or None for none."""
    lines = _COMMENT.sub("", text).splitlines()
    return _join(_blocks(lines, _Page(link)))


def _blocks(lines: list[str], page: _Page) -> Iterator[SafeString]:
    place = 0
    while place < len(lines):
        line = lines[place]
        if not line.strip():
            place += 1
        elif fence := _FENCE.match(line):
            end = next((n for n in range(place + 1, len(lines)) if lines[n].strip() == "```"), len(lines))
            yield _code([each.removeprefix(fence[1]) for each in lines[place + 1 : end]], fence[2], page)
            place = end + 1
        elif heading := _HEADING.match(line):
            level = len(heading[1])
            ident = anchor(heading[2])
            attribute = SafeString("") if ident in page.ids else format_html(' id="{}"', ident)
            page.ids.add(ident)
            yield format_html("<h{}{}>{}</h{}>", level, attribute, _inline(heading[2], page), level)
            place += 1
        elif named := _ANCHOR.match(line.strip()):
            page.ids.add(named[1])
            yield format_html('<span id="{}"></span>', named[1])
            place += 1
        elif line.startswith(">"):
            end = _end(lines, place, lambda each: each.startswith(">"))
            yield format_html(
                '<div class="notice">{}</div>', _join(_blocks([each[1:].removeprefix(" ") for each in lines[place:end]], page))
            )
            place = end
        elif line.lstrip().startswith("|") and place + 1 < len(lines) and _RULE.match(lines[place + 1].strip()):
            end = _end(lines, place, lambda each: each.lstrip().startswith("|"))
            yield _table(lines[place:end], page)
            place = end
        elif _ITEM.match(line):
            place, shown = _list(lines, place, page)
            yield shown
        else:
            end = place + 1
            while end < len(lines) and lines[end].strip() and not _begins_block(lines, end):
                end += 1
            yield format_html("<p>{}</p>", _inline(" ".join(each.strip() for each in lines[place:end]), page))
            place = end


def _begins_block(lines: list[str], place: int) -> bool:
    line = lines[place]
    return bool(_FENCE.match(line) or _HEADING.match(line) or _ITEM.match(line) or line.startswith((">", "|")) or _ANCHOR.match(line))


def _end(lines: list[str], place: int, belongs: Callable[[str], bool]) -> int:
    while place < len(lines) and belongs(lines[place]):
        place += 1
    return place


def _list(lines: list[str], place: int, page: _Page) -> tuple[int, SafeString]:
    """A list and where it ends. What is indented below an item belongs to it; a blank line ends it, unless more of it follows."""
    first = _ITEM.match(lines[place])
    assert first  # noqa: S101 - the caller looked
    depth, ordered = len(first[1]), first[2][0].isdigit()
    items: list[SafeString] = []
    while place < len(lines) and (item := _ITEM.match(lines[place])) and len(item[1]) == depth and item[2][0].isdigit() == ordered:
        inside, indent = [item[3]], depth + (3 if ordered else 2)
        place += 1
        while place < len(lines):
            line = lines[place]
            if line.strip() and len(line) - len(line.lstrip()) < indent:
                if _begins_block(lines, place) or not lines[place - 1].strip():
                    break
            elif not line.strip() and not (place + 1 < len(lines) and lines[place + 1].startswith(" " * indent)):
                break
            inside.append(line[indent:] if line.startswith(" " * indent) else line.strip())
            place += 1
        shown = list(_blocks(inside, page))
        items.append(_unwrap(shown))
        if place + 1 < len(lines) and not lines[place].strip() and (follows := _ITEM.match(lines[place + 1])) and len(follows[1]) == depth:
            place += 1
    tag = "ol" if ordered else "ul"
    return place, format_html("<{}>{}</{}>", tag, format_html_join("", "<li>{}</li>", ((item,) for item in items)), tag)


def _unwrap(blocks: list[SafeString]) -> SafeString:
    """The paragraph that an item begins with stands without a tag of its own."""
    if blocks and blocks[0].startswith("<p>"):
        blocks = [mark_safe(blocks[0].removeprefix("<p>").removesuffix("</p>")), *blocks[1:]]  # noqa: S308 - rendered above
    return _join(blocks)


def _table(lines: list[str], page: _Page) -> SafeString:
    head, *body = ([_inline(cell.strip().replace("\\|", "|"), page) for cell in _cells(line)] for line in (lines[0], *lines[2:]))
    return format_html(
        '<div class="table-wrap"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>',
        format_html_join("", '<th scope="col">{}</th>', ((cell,) for cell in head)),
        format_html_join("", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in body)),
    )


def _cells(line: str) -> list[str]:
    """A row's cells; a bar inside `code` is written with a backslash."""
    return _CELL.split(line.strip().removeprefix("|").removesuffix("|"))


def _code(lines: list[str], language: str, page: _Page) -> SafeString:
    page.blocks += 1
    name = f"code-{page.blocks}"
    return format_html(
        '<div class="code"><pre tabindex="0"><code id="{}" data-language="{}">{}</code></pre>'
        '<button type="button" class="button small" data-copy="{}"><span data-label>Copy</span></button></div>',
        *(name, language, "\n".join(lines), name),
    )


def _inline(text: str, page: _Page) -> SafeString:
    parts: list[SafeString] = []
    place = 0
    for match in _INLINE.finditer(text):
        parts.append(escape(text[place : match.start()]))
        if match["code"]:
            parts.append(format_html("<code>{}</code>", match["code"].strip("`")))
        elif match["strong"]:
            parts.append(format_html("<strong>{}</strong>", _inline(match["strong"], page)))
        else:
            target = page.link(match["target"])
            label = _inline(match["label"], page)
            parts.append(label if target is None else format_html('<a href="{}">{}</a>', target, label))
        place = match.end()
    parts.append(escape(text[place:]))
    return _join(parts)


def _plain(text: str) -> str:
    return _INLINE.sub(lambda match: (match["code"] or match["strong"] or match["label"] or "").strip("`"), text)


def _join(parts: "Iterator[SafeString] | list[SafeString]") -> SafeString:
    return format_html_join("", "{}", ((part,) for part in parts))
