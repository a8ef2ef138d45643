"""Envelopes: what one provider sealed, carried through a client of another format and given back to that provider alone, unchanged.

Providers sign or encrypt their reasoning and want it back in the next request of a tool loop; no other provider understands it, and no other
account may use it. So an answer that is bridged carries, in the opaque fields of the client's format, envelopes instead:
`gw1.<key version>.<base64url of nonce and ciphertext>`, AES-256-GCM under a key that each account has of its own. What comes back is
opened and restored where it belongs, or taken out: for another provider or model family it means nothing, and foreign thinking is never
sent as text. Stateless: whoever holds the envelope holds all there is. Seals that are no envelopes are the client format's own and stay.

Gemini's clients hold signatures as bytes and refuse what is not base64, so there the whole envelope is base64 once more; both forms open.
"""

import base64
import binascii
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Closed,
    Conversation,
    Delta,
    Event,
    Opened,
    Origin,
    Reasoning,
    Seal,
    ServerTool,
    Text,
    ToolCall,
    Unknown,
)

MARK: Final = "gw1."
DOMAIN: Final = b"reasoning envelope v1"
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
DEFLATE_ABOVE: Final = 2048  # bytes; below, the time costs more than the bytes saved
CACHED_ACCOUNTS: Final = 4096
NOTHING: Final[Mapping[str, Any]] = {}

# In an envelope's `extra`: where the seal sat in the answer.
ITEM, CALLS_BEFORE, THOUGHT, CALL, SAID = "item", "calls_before", "thought", "call", "said"

_VERSION = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LOOKS = re.compile(r"gw1\.|Z3cxL[g-v]")  # the second is how "gw1." begins in base64, for three bytes and a bit
_FAMILIES: Final = (
    (re.compile(r"(?:^|[/.:@])claude\b"), "claude"),
    (re.compile(r"(?:^|[/.:@])(gemini-\d+)"), r"\1"),
    (re.compile(r"(?:^|[/.:@])(gpt-\d+)"), r"\1"),
    (re.compile(r"(?:^|[/.:@])o\d+(?:-|$)"), "o"),
    (re.compile(r"(?:^|[/.:@])(grok-\d+)"), r"\1"),
)


class BadKeys(Exception):
    """ENCRYPTION_KEYS is empty, or an entry is not `version:64-hex-digits`."""


def read_keys(configured: Sequence[str]) -> list[tuple[str, bytes]]:
    """Read ENCRYPTION_KEYS ("version:hex", the first is current).

    Raises: BadKeys.
    """
    keys = []
    for entry in configured:
        version, _, key = entry.partition(":")
        try:
            keys.append((version, bytes.fromhex(key)))
        except ValueError as error:
            raise BadKeys("ENCRYPTION_KEYS must be a list of version:64-hex-digits") from error
    return keys


def family_of(upstream_model: str) -> str:
    """The family of models that understand each other's seals, by the upstream's name; a name that tells nothing is a family of its own.

    "claude" for every Claude (https://platform.claude.com/docs/en/build-with-claude/extended-thinking), the main version of Gemini, GPT
    and Grok, "o" for OpenAI's o-series.
    """
    name = upstream_model.lower()
    for pattern, family in _FAMILIES:
        found = pattern.search(name)
        if found is not None:
            return found.expand(family)
    return name.rpartition("/")[2]


def is_envelope(text: str) -> bool:
    """Whether `text` looks like an envelope, ours or not, whole or damaged."""
    return _LOOKS.match(text) is not None


def mentions_envelope(body: bytes) -> bool:
    """Whether a JSON body may hold an envelope: then it must not pass through as it is, whatever format its target speaks."""
    return b'"gw1.' in body or b'"Z3cxL' in body


@dataclass(frozen=True, slots=True)
class Contents:
    """What an envelope held: the provider's own seal, who made it, and where it sat."""

    seal: Seal
    provider_kind: str
    model_family: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Envelopes:
    """Seals and opens envelopes. `keys` are (version, 256-bit key), the first seals, all open; none is used as it is.

    Each account's key is derived (HKDF, RFC 5869), so an envelope of another account does not open, and a random nonce need not be unlike
    all others that were ever drawn, but only those of its account.

    What is sealed for one `domain` opens in no other.

    Raises: BadKeys.
    """

    def __init__(self, keys: Sequence[tuple[str, bytes]], *, domain: bytes = DOMAIN) -> None:
        self._domain = domain
        self._keys = dict(keys)
        if not keys or len(self._keys) != len(keys):
            raise BadKeys("ENCRYPTION_KEYS must have at least one key, and each version once")
        if not all(_VERSION.fullmatch(version) and len(key) == 32 for version, key in keys):
            raise BadKeys("a key of ENCRYPTION_KEYS has 32 bytes, and its version is made of A-Z, a-z, 0-9, _ and -")
        self._current = keys[0][0]
        self._cipher = lru_cache(CACHED_ACCOUNTS)(self._derive)

    def seal(self, seal: Seal, *, account_id: int, provider_kind: str, model_family: str, extra: Mapping[str, Any] = NOTHING) -> str:
        """Put a provider's seal into an envelope that only the same account can have opened. `extra` is JSON that comes along."""
        plain = orjson.dumps([seal.origin, seal.kind, seal.data, provider_kind, model_family, extra])
        return self.lock(plain, account_id=account_id)

    def lock(self, plain: bytes, *, account_id: int) -> str:
        """Encrypt bytes for an account."""
        plain = b"z" + zlib.compress(plain, 1) if len(plain) > DEFLATE_ABOVE else plain
        head = f"{MARK}{self._current}."
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._cipher(self._current, account_id).encrypt(nonce, plain, self._bound_to(head, account_id))
        return head + _encode(nonce + ciphertext)

    def open(self, text: str, *, account_id: int) -> Contents | None:
        """Open an envelope; None for anything that is not one of ours, is damaged, is another account's, or needs a key we have no more."""
        plain = self.unlock(text if text.startswith(MARK) else _unpack(text), account_id=account_id)
        try:
            origin, kind, data, provider_kind, model_family, extra = orjson.loads(plain or b"")
        except ValueError:
            return None
        return Contents(Seal(kind, data, origin), provider_kind, model_family, extra)

    def unlock(self, text: str, *, account_id: int) -> bytes | None:
        """What `lock` encrypted for the same account and domain; None for anything else."""
        mark, dot, body = text.rpartition(".")
        version = mark[len(MARK) :]
        if not dot or not mark.startswith(MARK) or version not in self._keys:
            return None
        try:
            sealed = _decode(body)
            if len(sealed) < NONCE_BYTES + TAG_BYTES:
                return None
            cipher = self._cipher(version, account_id)
            plain = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound_to(mark + dot, account_id))
            return zlib.decompress(plain[1:]) if plain.startswith(b"z") else plain
        except (InvalidTag, ValueError, zlib.error):
            return None

    def _derive(self, version: str, account_id: int) -> AESGCM:
        hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"%b, account %d" % (self._domain, account_id))
        return AESGCM(hkdf.derive(self._keys[version]))

    def _bound_to(self, head: str, account_id: int) -> bytes:
        return b"%b\0%b\0a%d" % (self._domain, head.encode(), account_id)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises: ValueError for anything but what `_encode` writes."""
    data = binascii.a2b_base64(_standard(text) + "=" * (-len(text) % 4), strict_mode=True)
    if "+" in text or "/" in text or not text.endswith(_encode(data[len(data) // 3 * 3 :])):
        raise ValueError("not canonical base64url")  # the decoder takes both alphabets here, and any bits behind the last byte
    return data


def _standard(text: str) -> str:
    return text.replace("-", "+").replace("_", "/")  # str.translate is ten times as slow


def _pack(envelope: str) -> str:
    """The form for clients that hold signatures as bytes."""
    return base64.b64encode(envelope.encode()).decode()


def _unpack(text: str) -> str:
    """What `_pack` was given, whichever base64 the client wrote it in; "" for anything else."""
    text = _standard(text).rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        return ""


# -- Answers: from the provider to the client ------------------------------------------------------------------------------------------


class Wrapping:
    """Puts the seals of one bridged answer into envelopes, on their way to a client of another format. One per answer.

    `provider_kind` and `model_family` say who will understand them: on the way back both must be the same. Nothing that is handed in is
    changed, since parsers go on writing to their items. `turn` gathers the items that went by, for `proxy.carryover`.
    """

    def __init__(self, envelopes: Envelopes, *, account_id: int, provider_kind: str, model_family: str, client_format: Origin) -> None:
        self._envelopes = envelopes
        self._account_id = account_id
        self._provider_kind = provider_kind
        self._model_family = model_family
        self._client_format = client_format
        self._made: dict[tuple[int, str], str] = {}
        self._open: dict[int, AnyItem] = {}
        self._thoughts: list[str] = []
        self._calls = 0
        self.turn: list[AnyItem] = []

    def answer(self, answer: Answer) -> Answer:
        """The whole answer with every seal in an envelope."""
        return replace(answer, items=[self._close(index, item) for index, item in enumerate(answer.items)])

    def event(self, event: Event) -> Event:
        """The event with every seal in an envelope; a seal that is told twice (as a delta, then in the whole item) has one envelope."""
        if isinstance(event, Delta):
            if event.seal is not None:
                thought = "".join(self._thoughts)
                return replace(event, seal=self._wrap(event.index, self._open.get(event.index), event.seal, thought))
            if event.what == "reasoning":
                self._thoughts.append(event.text)
        elif isinstance(event, Opened):
            self._open[event.index] = event.item
            self._thoughts = [event.item.text] if isinstance(event.item, Reasoning) and event.item.text else []
            item = self._wrap_item(event.index, event.item)
            if item.raw is not None and isinstance(item, Reasoning | ToolCall | Text):
                item = replace(item, raw=None, origin=None)  # it may show a seal that is yet to be told
            return Opened(event.index, item)
        elif isinstance(event, Closed):
            self._open.pop(event.index, None)
            return Closed(event.index, self._close(event.index, event.item))
        return event

    def _close(self, index: int, item: AnyItem) -> AnyItem:
        wrapped = self._wrap_item(index, item)
        self._calls += isinstance(item, ToolCall)
        self.turn.append(wrapped)
        return wrapped

    def _wrap_item(self, index: int, item: AnyItem) -> AnyItem:
        """A copy in envelopes, without the raw JSON, which shows the seals as they were; the item itself where there is no seal."""
        match item:
            case Reasoning(seals=[_, *_]):
                return replace(item, seals=[self._wrap(index, item, seal, item.text) for seal in item.seals], raw=None, origin=None)
            case ToolCall(seals=[_, *_]):
                return replace(item, seals=[self._wrap(index, item, seal) for seal in item.seals], raw=None, origin=None)
            case Text(signature=signature) if signature:
                seal = Seal("signature", signature, item.origin or "gemini")
                return replace(item, signature=self._wrap(index, item, seal).data, raw=None, origin=None)
            case _:
                return item

    def _wrap(self, index: int, holder: AnyItem | None, seal: Seal, thought: str = "") -> Seal:
        envelope = self._made.get((index, seal.data))
        if envelope is None:
            extra: dict[str, Any] = {}
            if isinstance(holder, ToolCall):
                extra[CALL] = holder.call_id
            elif isinstance(holder, Text):
                extra[SAID] = True
            else:
                extra[ITEM] = index
                if self._calls:
                    extra[CALLS_BEFORE] = self._calls
                if thought and seal.kind == "signature":
                    extra[THOUGHT] = thought  # what is signed must come back to the letter, and clients shorten, join or drop it
            envelope = self._envelopes.seal(
                seal,
                account_id=self._account_id,
                provider_kind=self._provider_kind,
                model_family=self._model_family,
                extra=extra,
            )
            if self._client_format == "gemini":
                envelope = _pack(envelope)
            self._made[index, seal.data] = envelope
        return Seal(seal.kind, envelope, seal.origin)


# -- Requests: from the client to the provider -----------------------------------------------------------------------------------------


def turns_of(conversation: Conversation) -> Iterator[list[AnyItem]]:
    """The items, in order, in runs: each run is one turn of the assistant, or what stands between two.

    Only in chat does a message end a turn: the other formats split one answer into several messages, or none.
    """
    run: list[AnyItem] = []
    for item in conversation.items:
        breaks = (item.role == "assistant") is not (run[0].role == "assistant") if run else False
        if run and (breaks or (item.new_turn and conversation.origin == "chat")):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def seals_of(items: Iterable[AnyItem]) -> Iterator[str]:
    """What the items hold in opaque fields, envelopes or not."""
    for item in items:
        match item:
            case Reasoning(seals=seals) | ToolCall(seals=seals):
                yield from (seal.data for seal in seals)
            case Text(signature=signature) if signature:
                yield signature
            case _:
                pass


def unwrap_conversation(conversation: Conversation, envelopes: Envelopes, *, account_id: int, provider_kind: str, model_family: str) -> int:
    """Open every envelope in a request, in place: restore what the target sealed itself, take out the rest. Returns how many there were.

    Above zero says that the client keeps envelopes, and nothing needs to be remembered for it.
    """
    if not any(map(is_envelope, seals_of(conversation.items))):
        return 0
    opener = _Opener(envelopes, account_id, provider_kind, model_family)
    items: list[AnyItem] = []
    for turn in turns_of(conversation):
        if any(map(is_envelope, seals_of(turn))):
            items += _unwrap_turn(turn, opener, flattened=conversation.origin == "chat")
        else:
            items += turn
    conversation.items = items
    return opener.met


@dataclass(slots=True)
class _Opener:
    envelopes: Envelopes
    account_id: int
    provider_kind: str
    model_family: str
    met: int = 0

    def sort(self, seals: Sequence[Seal]) -> tuple[list[Seal], list[Contents]]:
        """The seals that are no envelopes, and the contents of the envelopes that are for this target."""
        native = [seal for seal in seals if not is_envelope(seal.data)]
        self.met += len(seals) - len(native)
        opened = (self.envelopes.open(seal.data, account_id=self.account_id) for seal in seals if is_envelope(seal.data))
        fitting = [
            contents
            for contents in opened
            if contents is not None and (contents.provider_kind, contents.model_family) == (self.provider_kind, self.model_family)
        ]
        return native, fitting


def _unwrap_turn(turn: list[AnyItem], opener: _Opener, *, flattened: bool) -> list[AnyItem]:
    """One turn with its envelopes opened. `flattened`: the format lost the order of reasoning and calls, which is restored."""
    items: list[AnyItem] = []
    astray: list[tuple[int, Contents]] = []  # seals of calls and texts that the client's format could hold in reasoning only
    belongs: dict[int, int] = {}  # id() of a restored reasoning -> how many calls came before it
    begins = False
    for item in turn:
        became: list[AnyItem] = [item]
        match item:
            case Reasoning(seals=[_, *_]):
                native, opened = opener.sort(item.seals)
                if len(native) < len(item.seals):
                    astray += [(len(items), contents) for contents in opened if ITEM not in contents.extra]
                    became = _restore(item, native, [contents for contents in opened if ITEM in contents.extra], belongs)
            case ToolCall(seals=[_, *_]):
                native, opened = opener.sort(item.seals)
                if len(native) < len(item.seals):
                    item.seals = [*native, *(contents.seal for contents in opened)]
                    item.raw = item.origin = None
            case Text(signature=signature) if signature:
                native, opened = opener.sort([Seal("signature", signature, item.origin or "gemini")])
                if not native:
                    item.signature = opened[0].seal.data if opened else ""
                    item.raw = item.origin = None
                    became = [item] if item.text or item.signature else []
            case _:
                pass
        begins = begins or item.new_turn
        for new in became:
            new.new_turn, begins = begins, False
        items += became
    for position, contents in astray:
        _bring_home(items, position, contents)
    for item in items:
        if item.raw is not None and not isinstance(item, Unknown | ServerTool) and mentions_envelope(orjson.dumps(item.raw)):
            item.raw = item.origin = None  # a format may keep a whole message's JSON at one of its items
    return _reorder(items, belongs) if flattened and belongs else items


def _restore(item: Reasoning, native: list[Seal], opened: list[Contents], belongs: dict[int, int]) -> list[AnyItem]:
    """What a client's reasoning stands for: each item of the answer it was made of, or its bare text, or nothing."""
    parts: dict[int, list[Contents]] = {}
    for contents in opened:
        parts.setdefault(contents.extra[ITEM], []).append(contents)
    restored: list[AnyItem] = []
    for _, part in sorted(parts.items()):
        text, summary = ("", []) if restored else (item.text, item.summary)  # the client's words, for the first of them
        seal = part[0].seal
        if seal.origin == "responses":
            text, summary = "", summary or ([text] if text else [])  # which takes a summary back, and no text
        elif seal.kind != "encrypted":
            text, summary = next((contents.extra[THOUGHT] for contents in part if THOUGHT in contents.extra), ""), []
        reasoning = Reasoning(item.role, text=text, summary=summary, seals=[contents.seal for contents in part], cache=item.cache)
        belongs[id(reasoning)] = part[0].extra.get(CALLS_BEFORE, 0)
        restored.append(reasoning)
    if native or (not restored and (item.text or item.summary)):
        restored.append(replace(item, seals=native, raw=None, origin=None, id=""))
    return restored


def _bring_home(items: list[AnyItem], position: int, contents: Contents) -> None:
    """Give a seal back to what it was on: the call of that id, else the next call; for a text the one right before it, else the next."""
    call_id = contents.extra.get(CALL)
    if call_id is None:
        near = items[max(position - 1, 0) :]
        text = next((item for item in near if isinstance(item, Text) and not item.signature), None)
        if text is not None:
            text.signature = contents.seal.data
            text.raw = text.origin = None
        return
    calls = (item for item in items if isinstance(item, ToolCall) and item.call_id == call_id)
    behind = (item for item in items[position:] if isinstance(item, ToolCall))
    call = next(calls, None) or next(behind, None)
    if call is not None and contents.seal not in call.seals:
        call.seals = [*call.seals, contents.seal]
        call.raw = call.origin = None


def _reorder(items: list[AnyItem], belongs: Mapping[int, int]) -> list[AnyItem]:
    """Put each restored reasoning before the call that it came before; what came before the first call is where it should be."""
    later: dict[int, list[AnyItem]] = {}
    rest: list[AnyItem] = []
    for item in items:
        calls = belongs.get(id(item), 0)
        if calls:
            later.setdefault(calls, []).append(item)
        else:
            rest.append(item)
    if not later:
        return items
    begins, ordered, calls = items[0].new_turn, list[AnyItem](), 0
    for item in rest:
        if isinstance(item, ToolCall):
            ordered += later.pop(calls, [])
            calls += 1
        ordered.append(item)
    for _, behind in sorted(later.items()):
        ordered += behind
    for item in ordered:
        item.new_turn = False
    ordered[0].new_turn = begins
    return ordered
