"""The first run: a catalog, an administrator, a customer with a little credit and a key, all written down in the state folder.

Later runs change only what has newly appeared: a provider's key in the environment, or seeds that differ from those applied last. Whatever
an operator has made of the rest stays as it is.
"""

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import Account, User
from billing import ledger, opening, plan_manifest, sample
from billing.models import Plan, Wallet
from catalog import declarations, manifest
from catalog.declarations import KeyEntry, Manifest, ModelEntry, ProviderEntry
from catalog.models import Alias, CatalogVersion, Model, Price, Provider, ProviderKey
from gateway_site.embedded import state
from keys import issuing

log = structlog.get_logger(__name__)

ACCOUNT = "quickstart"
PLAN = "pay-as-you-go"
CREDIT_NANO = 5_000_000_000  # $5
ADMIN_EMAIL = "admin@tollgate.local"
CUSTOMER_EMAIL = "customer@tollgate.local"
KEY_VARIABLES = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "zai": ("ZAI_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "groq": ("GROQ_API_KEY",),
}

_KEY_NAME = "environment"  # what a provider key out of the environment is called: its presence says that the variable has been seen
_SEED_NOTE = "from the seeds"  # what a price written here is marked with: one without it is an operator's own


def prepare(base_url: str) -> dict[str, str]:
    """Seed what is missing; return the quickstart's credentials, as `quickstart.json` in the state folder (0600) has them.

    They are `base_url, api_key, admin_email, admin_password, customer_email, customer_password`. When the file is lost, what it said is
    lost too: a new key is issued, the passwords are empty, and `note` says how to set new ones.
    """
    now = timezone.now()
    folder = state.folder()
    state.create(folder)
    file, seeds_file = folder / "quickstart.json", folder / "seeds.sha256"
    kept, seeds = _read(file), _seeds_digest()
    with transaction.atomic():
        CatalogVersion.objects.select_for_update().get_or_create(pk=1)  # one at a time, should two hosts share the database
        account = Account.objects.filter(slug=ACCOUNT).first()
        seeded = seeds_file.read_text().strip() if seeds_file.exists() else ""
        if account is None or seeded != seeds:
            _seed_catalog(now)
        _take_keys_from_environment(now)
        if account is None:
            credentials = _open(now)
        elif kept is not None and _is_known(kept["api_key"]):
            credentials = kept
        else:
            credentials = _reopen(account, now)
        credentials = {**credentials, "base_url": base_url.rstrip("/")}
        # Before the commit: a file without its rows is noticed and made anew, rows without their file would be passwords nobody knows.
        if credentials != kept:
            _write(file, json.dumps(credentials, indent=2) + "\n")
    if seeded != seeds:
        _write(seeds_file, seeds + "\n")
    return credentials


def _open(now: datetime) -> dict[str, str]:
    """Make the people, the plans, the account with its credit, and its key."""
    plans = plan_manifest.read((manifest.SEEDS / "plans.yaml").read_text(encoding="utf-8"))
    there = set(Plan.objects.values_list("slug", flat=True))
    plan_manifest.apply(tuple(plan for plan in plans if plan.slug not in there), now=now, dry_run=False)
    admin_password = _make_user(ADMIN_EMAIL, now, is_staff=True, is_superuser=True)
    customer_password = _make_user(CUSTOMER_EMAIL, now)
    account = opening.open_account(slug=ACCOUNT, name="Quickstart", owner_email=CUSTOMER_EMAIL, plan_slug=PLAN, now=now)
    ledger.credit(
        wallet_id=Wallet.objects.get(account=account).pk,
        amount=CREDIT_NANO,
        kind="promo",
        debit_account="promo",
        source_type="quickstart",
        source_id=str(account.pk),
        actor="quickstart",
        note="Credit to try the gateway with",
        now=now,
    )
    if settings.DEBUG:  # something to look at: a second account of the customer's, which says that it is invented
        with suppress(sample.NothingForSale, sample.SlugTaken):
            sample.make(owner_email=CUSTOMER_EMAIL, now=now)
    return _credentials(_issue_key(account, now), admin_password, customer_password)


def _reopen(account: Account, now: datetime) -> dict[str, str]:
    """Issue a new key for an account whose credentials are lost, and reset nothing else."""
    note = (
        "The first run's credentials were lost, so this is a new key. Passwords are as they were; "
        f"`manage.py changepassword {ADMIN_EMAIL}` sets a new one."
    )
    log.warning("quickstart_credentials_lost", note=note)
    return {**_credentials(_issue_key(account, now), "", ""), "note": note}


def _credentials(api_key: str, admin_password: str, customer_password: str) -> dict[str, str]:
    return {
        "base_url": "",
        "api_key": api_key,
        "admin_email": ADMIN_EMAIL,
        "admin_password": admin_password,
        "customer_email": CUSTOMER_EMAIL,
        "customer_password": customer_password,
    }


def _issue_key(account: Account, now: datetime) -> str:
    return issuing.issue(account=account, name="quickstart", now=now)[1]


def _is_known(api_key: str) -> bool:
    """Whether the database knows the key, working or not: it is another database's otherwise."""
    try:
        issuing.find(api_key)
    except issuing.KeyNotFound:
        return False
    return True


def _make_user(email: str, now: datetime, *, is_staff: bool = False, is_superuser: bool = False) -> str:
    """Make a person and return the password; empty when there is one of this address, whose password is their own."""
    if User.objects.filter(email=email).exists():
        return ""
    password = secrets.token_urlsafe(15)
    User.objects.create_user(email, password, is_staff=is_staff, is_superuser=is_superuser, created_at=now)
    return password


# -- The catalog ---------------------------------------------------------------------------------------------------------------------


def _seeds_digest() -> str:
    """Name the seeds as they are now, and the markup that is put on them."""
    digest = hashlib.sha256(str(settings.DEFAULT_MARKUP_PPM).encode())
    for path in _seeds():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _seeds() -> list[Path]:
    return sorted(path for path in manifest.SEEDS.glob("*.yaml") if path.name != "plans.yaml")


def _seed_catalog(now: datetime) -> None:
    """Apply every seed as one manifest, without what an operator has decided otherwise."""
    read = [manifest.read(path.read_text(encoding="utf-8")) for path in _seeds()]
    seeds = Manifest(
        providers=tuple(provider for seed in read for provider in seed.providers),
        models=tuple(model for seed in read for model in seed.models),
        aliases={name: slug for seed in read for name, slug in seed.aliases.items()},
        default_model=next((seed.default_model for seed in read if seed.default_model), None),
    )
    manifest.apply(
        _without_decided(seeds, now), now=now, dry_run=False, default_markup_ppm=settings.DEFAULT_MARKUP_PPM, environ={}, note=_SEED_NOTE
    )


def _without_decided(seeds: Manifest, now: datetime) -> Manifest:
    """Leave of `seeds` what is new, and the prices and limits of models whose price is still a seed's.

    A new provider that needs a key begins disabled, so that nobody is offered models which cannot answer.
    """
    providers = set(Provider.objects.values_list("slug", flat=True))
    models = set(Model.objects.values_list("slug", flat=True))
    aliases = set(Alias.objects.values_list("name", flat=True))
    priced = Price.objects.filter(effective_from__lte=now).order_by("model", "-effective_from").distinct("model")
    ours = {slug for slug, note in priced.values_list("model__slug", "note") if note == _SEED_NOTE}
    kept_models: list[ModelEntry] = []
    for model in seeds.models:
        if model.slug in ours:
            kept_models.append(replace(model, routes=None))
        elif model.slug not in models | aliases:
            kept_models.append(model)
    there = models | {model.slug for model in kept_models}
    return Manifest(
        providers=tuple(
            replace(provider, said={**provider.said, "is_enabled": provider.slug not in KEY_VARIABLES})
            for provider in seeds.providers
            if provider.slug not in providers
        ),
        models=tuple(kept_models),
        aliases={name: slug for name, slug in seeds.aliases.items() if name not in aliases | models and slug in there},
        default_model=None if CatalogVersion.objects.filter(default_model__isnull=False).exists() else seeds.default_model,
    )


def _take_keys_from_environment(now: datetime) -> None:
    """Store the provider keys of the environment; a provider is enabled when its variable is seen for the first time, and only then."""
    found = {slug: name for slug, names in KEY_VARIABLES.items() for name in reversed(names) if os.environ.get(name, "").strip()}
    for slug, name in list(found.items()):
        if not declarations.SECRET.fullmatch(os.environ[name].strip()):
            log.warning("provider_key_not_taken", variable=name, reason="it is not printable ASCII without spaces")
            del found[slug]
    if not found:
        return
    seen = set(ProviderKey.objects.filter(name=_KEY_NAME, provider__slug__in=found).values_list("provider__slug", flat=True))
    entries = [
        ProviderEntry(slug, slug, {} if slug in seen else {"is_enabled": True}, (KeyEntry(slug, _KEY_NAME, secret_env=found[slug]),))
        # A provider of another kind under this name is not the company that the variable's key is for.
        for slug in Provider.objects.filter(slug__in=found, kind=F("slug")).values_list("slug", flat=True)
    ]
    manifest.apply(Manifest(providers=tuple(entries)), now=now, dry_run=False)


# -- The file ------------------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, str] | None:
    """Read the credentials; None when the file is not there or is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and isinstance(content.get("api_key"), str)
    return {str(name): str(value) for name, value in content.items()} if whole else None


def _write(path: Path, text: str) -> None:
    """Replace `path` whole, 0600: a crash leaves the old content or the new."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
