"""What an operator has to do before customers can come, and what of it is done: each step is a question to the data, never a tick by hand."""

from dataclasses import dataclass
from datetime import datetime

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db.models import Exists, F, OuterRef

from accounts import outbox
from accounts.models import OutboxMessage, User
from billing.models import StripeEvent, UsageSlot
from billing.payments import stripe_client
from catalog.models import Model, Price, Provider, ProviderKey, Route
from proxy.providers.registry import DECLARATIONS


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `place` names the page of the admin where it is done ("" where it is a setting); optional ones are not counted as left."""

    title: str
    remedy: str
    is_done: bool
    place: str = ""
    is_optional: bool = False


def look(*, user: User, now: datetime) -> list[Step]:
    """The steps of this installation, in the order in which they are best done; `user` is who would do them."""
    sells = stripe_client.is_configured() and not settings.STRIPE_SIMULATED
    provider_keys = _real_provider_keys()
    return [
        Step(
            "Give a provider its key",
            "Enter the key of an account of yours at a provider, or of your own OpenAI-compatible server.",
            bool(provider_keys),
            "admin:catalog_providerkey_add",
        ),
        Step(
            "Put a model up for sale",
            "A model is for sale when it is enabled and has a price and a route to a provider with a key; a manifest does it for many at once.",
            _is_something_for_sale(provider_keys, now),
            "admin:manifest",
        ),
        Step(
            "See a provider answer",
            "Send a test request from the provider's page, then a real one with a key of an account.",
            _has_answered(),
            "admin:catalog_provider_changelist",
        ),
        Step(
            "Say where you are to be found",
            "Set PUBLIC_URL to the https:// address that customers use, ALLOWED_HOSTS to its name, and DEBUG=false.",
            settings.PUBLIC_URL.startswith("https://") and not settings.DEBUG,
        ),
        Step(
            "Send mail",
            "Set EMAIL_URL, then send yourself a test mail below: sign-up, receipts and alerts go by mail.",
            OutboxMessage.objects.filter(kind=OutboxMessage.Kind.MAIL, state=OutboxMessage.State.SENT).exists(),
        ),
        Step(
            "Sign in with a second factor",
            "Add an authenticator app or a passkey to your own sign-in.",
            Authenticator.objects.filter(user=user).exclude(type=Authenticator.Type.RECOVERY_CODES).exists(),
            "mfa_index",
        ),
        Step(
            "Take payments",
            "Set Stripe's live STRIPE_SECRET_KEY. Without it you grant credit by hand.",
            sells and stripe_client.is_live(),
            is_optional=True,
        ),
        Step(
            "Hear from Stripe",
            f"At Stripe, add the endpoint {settings.PUBLIC_URL}/webhooks/stripe and set its secret in STRIPE_WEBHOOK_SECRETS; its first event is the proof.",
            sells and StripeEvent.objects.filter(source="webhook").exists(),
            is_optional=not sells,
        ),
    ]


def send_test_mail(*, to: User, now: datetime) -> OutboxMessage:
    """Write a test mail down for the outbox; asked for twice within a minute, it is one mail."""
    return outbox.queue_mail(
        dedupe_key=outbox.key("test-mail", to.pk, f"{now:%Y%m%d%H%M}"), to=to.email, template="test_mail", context={}, account=None, now=now
    )


def last_test_mail(*, to: User) -> OutboxMessage | None:
    """The last test mail this person asked for."""
    return OutboxMessage.objects.filter(dedupe_key__startswith=f"test-mail:{to.pk}:").order_by("-id").first()


def _real_provider_keys() -> list[ProviderKey]:
    """Enabled keys at providers other than the demo."""
    return list(ProviderKey.objects.filter(is_enabled=True, provider__is_enabled=True).exclude(provider__kind="demo"))


def _is_something_for_sale(keys: list[ProviderKey], now: datetime) -> bool:
    keyless = [kind for kind, declaration in DECLARATIONS.items() if not declaration.needs_key and kind != "demo"]
    usable = {key.provider_id for key in keys} | set(
        Provider.objects.filter(is_enabled=True, kind__in=keyless).values_list("pk", flat=True)
    )
    priced = Price.objects.filter(model=OuterRef("pk"), effective_from__lte=now)
    routed = Route.objects.filter(model=OuterRef("pk"), is_enabled=True, provider_id__in=usable)
    return Model.objects.filter(Exists(priced), Exists(routed), is_enabled=True).exists()


def _has_answered() -> bool:
    """Whether a provider other than the demo has ever answered a customer who is no invention."""
    real = Provider.objects.exclude(kind="demo").values("slug")
    return UsageSlot.objects.filter(account__is_sample=False, provider__in=real, requests__gt=F("errors")).exists()
