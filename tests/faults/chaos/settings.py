"""The settings of a gateway under chaos: the real ones, an app that plants bugs and failpoints, and an address for what customers do."""

from gateway_site.settings import *  # noqa: F403
from gateway_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.faults.chaos.planting.Planting"]
ROOT_URLCONF = "tests.faults.chaos.urls"
ADJUSTMENT_LIMIT_USD = "1000000000"  # nobody is there to approve
