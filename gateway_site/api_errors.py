"""Errors and request ids of the control plane's API: the same table and shape as the data plane's, for views that Django serves."""

import time
from collections.abc import Callable

import structlog
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

from gateway_site.identifiers import uuid7
from proxy import error_shapes, errors

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
    """Turns the conditions that API views raise into the table's answers; API paths never answer in HTML."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        if request.path.startswith(API_PATHS) and response.status_code in (404, 405) and not isinstance(response, JsonResponse):
            return self._answer(request, errors.NoSuchRoute())
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer for a view that raised."""
        if not request.path.startswith(API_PATHS):
            return None
        return self._answer(request, errors.NoSuchRoute() if isinstance(exception, Http404) else exception)

    @staticmethod
    def _answer(request: HttpRequest, condition: Exception) -> HttpResponse:
        problem = errors.describe(condition)
        if problem.status == errors.INTERNAL.status:
            log.error("internal_error", request_id=request_id_of(request), path=request.path, exc_info=condition)
        response = JsonResponse(error_shapes.shape(problem, request_id_of(request), request.path), status=problem.status)
        for name, value in problem.headers:
            response.headers[name] = value
        return response
