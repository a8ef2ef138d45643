"""manage.py doctor: what is wrong with this installation, and how to mend it; exit code 1 on any error."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from gateway_site import diagnosis
from gateway_site.diagnosis import Finding, Severity


class Command(BaseCommand):
    help = "Say what is wrong with this installation and how to mend it. Reads only. Exit code 1 on any error."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--fast", action="store_true", help="leave out the audit of the money: say what Celery's last one found")
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        found = diagnosis.diagnose(now=timezone.now(), fast=options["fast"])
        is_broken = any(finding.severity is Severity.ERROR for finding in found)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": not is_broken, "findings": [finding.as_dict() for finding in found]}, indent=2))
        else:
            self._tell(found)
        if is_broken:
            sys.exit(1)

    def _tell(self, found: list[Finding]) -> None:
        styles = {Severity.ERROR: self.style.ERROR, Severity.WARNING: self.style.WARNING, Severity.NOTE: self.style.NOTICE}
        for finding in found:
            self.stdout.write(f"{styles[finding.severity](f'{finding.severity:<8}')}{finding.subject:<11}{finding.problem}")
            self.stdout.write(f"{'':<19}{finding.remedy}")
        counts = [sum(finding.severity is severity for finding in found) for severity in Severity]
        told = [f"{number} {severity}{'' if number == 1 else 's'}" for number, severity in zip(counts, Severity, strict=True) if number]
        self.stdout.write(f"\n{', '.join(told)}." if told else "Nothing is wrong.")
