"""The addresses of a gateway under chaos: the real ones, and what customers and staff do without a browser."""

from django.urls import include, path

from tests.faults.chaos import deeds

urlpatterns = [path("chaos/<str:deed>", deeds.serve), path("", include("gateway_site.urls"))]
handler400 = "gateway_site.views.bad_request"
handler403 = "gateway_site.views.permission_denied"
handler404 = "gateway_site.views.not_found"
handler500 = "gateway_site.views.server_error"
