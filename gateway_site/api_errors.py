"""Errors and request ids of the control plane's API: the same table and shape as the data plane's, for views that Django serves."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions

from billing.management_api.door import MOST_BODY_BYTES, BodyTooLarge
from billing.reports import InvalidParameter
from gateway_site.clients import DatabaseUnavailable
from gateway_site.identifiers import uuid7
from proxy import error_shapes, errors, urls
from proxy.body import InvalidJson
from proxy.rate_limits import NOTHING_LIMITED, RateLimited

log = structlog.get_logger(__name__)

API_PATHS = ("/v1/", "/v1beta/", "/v1beta1/", "/api/")


def request_id_of(request: HttpRequest) -> str:
    """The id that RequestIdMiddleware gave this request."""
    return str(request.META["tollgate.request_id"])


class RequestIdMiddleware:
    """Gives every request an id and puts it on the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = str(uuid7(time.time_ns() // 1_000_000))
        request.META["tollgate.request_id"] = request_id
        response = self._get_response(request)
        response.headers["x-request-id"] = response.headers["request-id"] = request_id
        return response


class ApiErrorMiddleware:
    """Turns the conditions that API views raise into the table's answers; API paths never answer in HTML.

    Nor do those that a client calls whose base address lacks `/v1`: it is told which address it means.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        if response.status_code not in (403, 404, 405) or isinstance(response, JsonResponse):
            return response
        is_api = f"{request.path}/".startswith(API_PATHS) and response.status_code != 403
        if is_api or (request.method == "POST" and urls.find_meant(request.path)):  # pages refuse a POST without their token
            return self._answer(request, errors.NoSuchRoute(urls.find_meant(request.path)))
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view that raised."""
        if not request.path.startswith(API_PATHS):
            return None
        return self._answer(request, errors.NoSuchRoute(urls.find_meant(request.path)) if isinstance(exception, Http404) else exception)

    @staticmethod
    def _answer(request: HttpRequest, condition: Exception) -> HttpResponse:
        problem = errors.describe(condition)
        if problem.status == errors.INTERNAL.status:
            log.error("internal_error", request_id=request_id_of(request), path=request.path, exc_info=condition)
        spoken_at = getattr(condition, "meant", None) or request.path
        response = JsonResponse(error_shapes.shape(problem, request_id_of(request), spoken_at), status=problem.status)
        for name, value in problem.headers:
            response.headers[name] = value
        return response


def translate_rest_error(error: Exception, context: Mapping[str, Any]) -> None:  # noqa: ARG001 - the signature is the framework's
    """Raise what the REST framework refuses as the condition that the table has a row for; anything else goes on as it is."""
    match error:
        case exceptions.ValidationError():
            raise _first_problem(error.detail) from error
        case exceptions.ParseError():
            raise InvalidJson("The body is not valid JSON.") from error
        case exceptions.UnsupportedMediaType():
            raise errors.NotJson from error
        case exceptions.MethodNotAllowed():
            raise errors.NoSuchRoute from error
        case BodyTooLarge():
            raise errors.BodyTooLarge(MOST_BODY_BYTES) from error
        case exceptions.Throttled():
            wait = float(getattr(error, "wait", None) or 1)
            raise RateLimited(kind="requests", subject="management", limit=0, retry_after_seconds=wait, reading=NOTHING_LIMITED) from error
        case OperationalError() | InterfaceError():
            raise DatabaseUnavailable(str(error)) from error


def _first_problem(detail: Any, path: str = "") -> InvalidParameter:
    """The first thing that is wrong with a body or a query, by the name of its field."""
    if isinstance(detail, Mapping):
        name, inner = next(iter(detail.items()))
        return _first_problem(inner, path if name == "non_field_errors" else f"{path}.{name}" if path else str(name))
    return InvalidParameter(path or "body", str(detail[0] if isinstance(detail, list) and detail else detail))
