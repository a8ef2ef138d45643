"""The pinned list of what the product needs is whole: what only the tests' list has is not there in an installation."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Loads what web processes, workers, beat, commands and the supervisor load, modules that libraries import late among them, in a Python
# in which the packages that are not in the list cannot be imported.
LOAD = """
import importlib.machinery, importlib.metadata, re, sys

listed = set(sys.argv[1].split(","))
owners = importlib.metadata.packages_distributions()
absent = {module for module, names in owners.items() if not listed & {re.sub(r"[-_.]+", "-", name).lower() for name in names}}

class Listed(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Listed
import django
django.setup()
import gateway_site.asgi, gateway_site.worker, gateway_site.celery, gateway_site.embedded.supervisor, gateway_site.quickstart
import gateway_site.diagnosis, gunicorn.app.wsgiapp, uvicorn, uvicorn_worker, uvloop, httptools, stripe
import celery.bin.celery, celery.apps.worker, celery.apps.beat, celery.concurrency.prefork, celery.worker.components, kombu.transport.redis
from django.core.management import get_commands, load_command_class
from django.urls import get_resolver
get_resolver().url_patterns
for name, app in get_commands().items():
    if not app.startswith("django"):
        load_command_class(app, name)
"""


def test_the_list_of_an_installation_is_enough_to_load_all_of_it() -> None:
    text = (ROOT / "requirements.txt").read_text()
    listed = {
        re.sub(r"[-_.]+", "-", found[1]).lower() for found in re.finditer(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==", text, re.MULTILINE)
    }
    assert {"django", "celery", "kombu", "stripe"} <= listed
    done = subprocess.run([sys.executable, "-c", LOAD, ",".join(listed)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
