"""The settings of a gateway under soak: the real ones without a build of the static files, and an address that tells of the process."""

from gateway_site.settings import *  # noqa: F403

ROOT_URLCONF = "tests.faults.soak.urls"
STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
