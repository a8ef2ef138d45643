"""A fake provider of language models on a real socket, and the reader of recorded traffic.

    with FakeProvider() as provider: ...            # .base_url, .origin, .requests, .wait_for, .release, .canary_hits, .mistakes
    python -m tests.fakes.provider --port 0         # prints {"port", "base_url", "origin"}; orders under /_control/

The **model name** in the request (JSON body, or the path for Gemini and Azure deployments) chooses what happens. Knobs are `key=value`
joined by `;`. Answers take the shape of the path: */chat/completions, */messages, */responses, *:generateContent,
*:streamGenerateContent, */embeddings, */images/generations, */messages/count_tokens, *:countTokens, *:embedContent,
*:batchEmbedContents, *:predict, GET */models. A name or knob that is unknown gets a 400 (code `unknown_behaviour`) where possible and is
listed in `.mistakes`; leaving the `with` block then raises.

================================ ====================================================================================================
model name                       answer
================================ ====================================================================================================
(anything else)                  `You said: <last user message>`; counts are words
replay:<provider>/<shape>/<case> the recording, byte for byte; `@N` behind it sends pieces of N bytes (default: one per event)
chat:<knobs or {json}>           a synthesised answer, knobs below
hold:<name>[;knobs]              waits before the first byte until `provider.release(name)`
gate:<name>;chunks=K[;knobs]     K content events (default 1; a whole answer: half its body), waits for release, then the rest
flaky:<token>;fail=N;status=503  fails N times (default 1) for that token, then answers; `fault=<name>` fails by a fault instead
fault:<name>[;knobs]             one of the faults below
================================ ====================================================================================================

Knobs of an answer (chat, hold, gate, flaky, and most faults)
    text=N words · say=<literal text> · think=N words of visible reasoning · reasoning=N hidden reasoning tokens ·
    prompt_tokens= · completion_tokens= · cached= · cache_write= · finish=stop|length|tool_calls|content_filter|<anything> ·
    tools=N|name,name (N calls of the tools offered) · searches=N of the web, run by the provider itself · n= choices · model= name stated in the answer ·
    usage=final (a chat stream states counts only when stream_options.include_usage asks) | always | inline (on the finish chunk) | none ·
    delay_ms before the first byte · gap_ms between events.
    Without counts given: prompt = words of the conversation (at least 1), completion = words said + 5 a tool call + reasoning, times n.
    max_tokens cuts the text and finishes with `length`, unless finish, completion_tokens or tools are given.

Faults of the connection
    connect-close · reset · silence (never answers) · slow-first-byte;ms=1000;headers=1 (head first) · truncated-chunked;chunks=3 ·
    content-length-short · duplicate-content-length · length-and-chunked · glued-response (a second, stale answer in the same bytes) ·
    non-http-banner;close=1 · switching-101;close=1. Before any byte of a request: `provider.set_door("close"|"reset"|"silent"|"open")`,
    (counted in `door_hits`), and `provider.stop()` for a refused connection (`start()` takes the same port again).
Refusals
    status-NNN (400..599, in the words of the path's API; 502 as HTML) ;retry=seconds|date|huge|<text> ;retry_ms= ;should_retry=true|false
    ;html=1 ;message= ;code= · named: status-400 status-401 status-402 status-403 status-404 status-408 status-409 status-413 status-422
    status-429 status-500 status-502 status-503 status-529 · insufficient-quota-429 · anthropic-credit-400 · xai-403-credits ·
    zai-429-1113 · redirect-307 (301, 302, 303, 308 too; to= another place than the canary, whose visits are `canary_hits`) ·
    leaks-secrets;status=401;midstream=1 (text repeats the credential, `org-abc123`, "openai"). `provider.accept_only("good")` answers
    401 to every other credential.
Wrong content under a 200
    ok-with-error-body · ok-html · bad-json;chunks=2 · empty-body · other-mode (JSON for a stream request, a stream for any other) ·
    gzip-encoded;mb=N (a bomb of N MiB) · unknown-events · no-usage · negative-usage (-50, -7) · huge-usage (10**24) · float-usage ·
    nan-usage (NaN, Infinity) · text-usage · null-usage · usage-more-than-hold;tokens= (default ten times max_tokens). Counts that are
    wrong are stated at the end of a stream whether asked for or not.
Streams that go wrong (a request that does not stream gets the nearest thing in one body)
    stall-midstream;chunks=3 · drop-midstream;chunks=3 (RST) · no-done (no finish, counts, [DONE]) · finish-no-done ·
    error-event-midstream;chunks=3;message=;code= · error-event-first · crlf-events;eol=cr · trickle (one byte at a time; gap_ms) ·
    split-utf8.
Too much
    huge-line;mb=200 · huge-body;mb=200 · endless-comments;gap_ms=10;count=N · endless-stream;gap_ms=0;count=N (0: for ever) ·
    many-100-continue;count=100000 · huge-headers;kb=256.

`recordings.cases(...)` lists recorded exchanges, `oracle.meaning(shape, body, stream)` says what an answer means.
"""

from tests.fakes.provider.journal import ReceivedRequest
from tests.fakes.provider.recordings import Case
from tests.fakes.provider.server import FakeProvider

__all__ = ["Case", "FakeProvider", "ReceivedRequest"]
