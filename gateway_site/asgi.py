"""The ASGI application: the data plane in front, Django behind it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from proxy.asgi import DataPlane  # noqa: E402 - Django must be set up first
from proxy.urls import find_view  # noqa: E402

application = DataPlane(find_view, django_application)
