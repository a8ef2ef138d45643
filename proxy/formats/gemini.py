"""Gemini generateContent: to and from the hub, streams as events or as a JSON array, the pass-through tap, and what its other methods use. Pure.

What is peculiar to it: roles are `user` and `model`, results are matched to calls by order and name where no ids are given, a thought
signature belongs to the part it came on, usage is repeated in every chunk (the last one counts), and nothing marks the end of a stream but
its finish reason. This module is the door; what is behind it is in `gemini_<part>.py`.
"""

from proxy.formats.gemini_answers import parse_answer, render_answer
from proxy.formats.gemini_contents import UNSIGNED
from proxy.formats.gemini_errors import render_error
from proxy.formats.gemini_models import Traits, traits_of
from proxy.formats.gemini_parts import NAME
from proxy.formats.gemini_requests import parse_request
from proxy.formats.gemini_sending import render_request
from proxy.formats.gemini_stream_in import StreamParser
from proxy.formats.gemini_stream_out import StreamRenderer
from proxy.formats.gemini_tap import GeminiAnswer, GeminiTap, read_answer
from proxy.formats.gemini_usage import MethodUsage, read_method_usage, read_usage, render_usage

__all__ = [
    "NAME",
    "UNSIGNED",
    "GeminiAnswer",
    "GeminiTap",
    "MethodUsage",
    "StreamParser",
    "StreamRenderer",
    "Traits",
    "parse_answer",
    "parse_request",
    "read_answer",
    "read_method_usage",
    "read_usage",
    "render_answer",
    "render_error",
    "render_request",
    "render_usage",
    "traits_of",
]
