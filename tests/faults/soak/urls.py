"""The addresses of a gateway under soak: the real ones, and what tells of the process."""

import os

from django.urls import include, path

from tests.faults.soak import bugs, inside

if os.environ.get("SOAK_BUG"):
    bugs.plant(os.environ["SOAK_BUG"])  # here it runs before there are workers, which all have it then

urlpatterns = [path("soak/inside", inside.tell), path("", include("gateway_site.urls"))]
handler400 = "gateway_site.views.bad_request"
handler403 = "gateway_site.views.permission_denied"
handler404 = "gateway_site.views.not_found"
handler500 = "gateway_site.views.server_error"
