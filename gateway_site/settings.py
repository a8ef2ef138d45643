"""Every setting of the installation, read from the environment (`.env.example` lists them all)."""

from pathlib import Path

import environ

from gateway_site.embedded import state

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
if (BASE_DIR / ".env").exists():
    env.read_env(str(BASE_DIR / ".env"))
state.load_environment()

# -- This installation ---------------------------------------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise environ.ImproperlyConfigured(
        "SECRET_KEY is not set. Run `make run` once (it generates one in .gateway/) or set it in the environment."
    )
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
PUBLIC_URL = env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
ADMIN_PATH = env.str("ADMIN_PATH", default="admin").strip("/")
STATUS_SHOWS_PROVIDERS = env.bool("STATUS_SHOWS_PROVIDERS", default=True)

# -- Secrets -------------------------------------------------------------------------------------------------------------------------
# "version:hex" lists; the first is current, the rest still verify or decrypt.

KEY_PEPPERS = env.list("KEY_PEPPERS", default=[])
ENCRYPTION_KEYS = env.list("ENCRYPTION_KEYS", default=[])

# -- Servers -------------------------------------------------------------------------------------------------------------------------

DATABASE_URL = env.str("DATABASE_URL", default="")
REDIS_URL = env.str("REDIS_URL", default="")
if not DATABASE_URL or not REDIS_URL:
    raise environ.ImproperlyConfigured(
        "DATABASE_URL and REDIS_URL are not set and no embedded servers are known here. Run `make run` first, or set both (see .env.example)."
    )
DATABASES = {
    "default": {
        **env.db_url_config(DATABASE_URL),
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": env.int("DATABASE_CONN_MAX_AGE", default=60),
        "CONN_HEALTH_CHECKS": True,
        "ATOMIC_REQUESTS": False,
    }
}

# -- Application ---------------------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.usersessions",
    "django_htmx",
    "gateway_site",
    "accounts",
    "catalog",
    "keys",
    "billing",
    "proxy",
]
MIDDLEWARE = [
    "gateway_site.api_errors.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "gateway_site.browser_security.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "gateway_site.sign_up.UnreadableAnswerMiddleware",
    "gateway_site.admin.door.AdminMfaMiddleware",
    "accounts.impersonation.ImpersonationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "gateway_site.api_errors.ApiErrorMiddleware",
]
ROOT_URLCONF = "gateway_site.urls"
ASGI_APPLICATION = "gateway_site.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "gateway_site.navigation.shell",
            ]
        },
    }
]
AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = ["gateway_site.formats"]
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    }
}
WHITENOISE_USE_FINDERS = DEBUG
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

# -- Browsers ------------------------------------------------------------------------------------------------------------------------

HTTPS_ONLY = env.bool("HTTPS_ONLY", default=not DEBUG)
SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_REDIRECT_EXEMPT = [r"^v1/", r"^v1beta/", r"^api/", r"^webhooks/", r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31536000 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS_ONLY
SECURE_HSTS_PRELOAD = HTTPS_ONLY
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 8 * 3600
if HTTPS_ONLY:  # bound to this host and to HTTPS by the browser itself: no other host of the domain can set them
    SESSION_COOKIE_NAME = "__Host-session"
    CSRF_COOKIE_NAME = "__Host-csrf"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "gateway_site.views.csrf_failure"

# -- People and how they sign in -----------------------------------------------------------------------------------------------------

SIGN_UP = env.str("SIGN_UP", default="open")
if SIGN_UP not in ("open", "invite", "closed"):
    raise environ.ImproperlyConfigured("SIGN_UP is open, invite or closed.")
ADMIN_MFA = env.bool("ADMIN_MFA", default=not DEBUG)
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "landing"
PASSWORD_RESET_TIMEOUT = 3600
# Limits on sign-in, sign-up and mails are counted here; Valkey being away costs their exactness, not the sign-in.
CACHES = {"default": {"BACKEND": "gateway_site.cache.ForgivingCache", "LOCATION": REDIS_URL, "KEY_PREFIX": "tollgate-site"}}
ACCOUNT_ADAPTER = "gateway_site.sign_up.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_SIGNUP_FORM_CLASS = "accounts.forms.NameForm"
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_TIMEOUT = 15 * 60
ACCOUNT_CHANGE_EMAIL = True  # one address a person, exchanged once the new one is verified
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_LOGIN_ON_PASSWORD_RESET = False
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False  # the other sessions end; the one at hand goes on
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_RATE_LIMITS = {"mail": "20/h/key"}  # beside allauth's own: what strangers can have sent to one address (gateway_site.sign_up)
ACCOUNT_REAUTHENTICATION_TIMEOUT = 15 * 60
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if HTTPS_ONLY else "http"
MFA_ADAPTER = "gateway_site.second_factors.MfaAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Tollgate"
MFA_TOTP_TOLERANCE = 1  # a code of half a minute ago is still good (RFC 6238, 5.2)
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = DEBUG
SOCIALACCOUNT_ADAPTER = "gateway_site.sign_up.SocialAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, object]] = {}
GOOGLE_CLIENT_ID = env.str("GOOGLE_CLIENT_ID", default="")
GOOGLE_CLIENT_SECRET = env.str("GOOGLE_CLIENT_SECRET", default="")
GITHUB_CLIENT_ID = env.str("GITHUB_CLIENT_ID", default="")
GITHUB_CLIENT_SECRET = env.str("GITHUB_CLIENT_SECRET", default="")
GITHUB_URL = env.str("GITHUB_URL", default="https://github.com").rstrip("/")
for _provider, _id, _secret, _scope in (
    ("google", GOOGLE_CLIENT_ID, GOOGLE_CLIENT_SECRET, ["profile", "email"]),
    ("github", GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET, ["user:email"]),
):
    if _id and _secret:
        INSTALLED_APPS.append(f"allauth.socialaccount.providers.{_provider}")
        SOCIALACCOUNT_PROVIDERS[_provider] = {"APPS": [{"client_id": _id, "secret": _secret}], "SCOPE": _scope, "OAUTH_PKCE_ENABLED": True}
if "github" in SOCIALACCOUNT_PROVIDERS and GITHUB_URL != "https://github.com":
    SOCIALACCOUNT_PROVIDERS["github"]["GITHUB_URL"] = GITHUB_URL  # an Enterprise server has its API under /api/v3 of the same address

# -- The data plane ------------------------------------------------------------------------------------------------------------------

MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=32 * 1024 * 1024)
CONNECT_TIMEOUT_SECONDS = env.float("CONNECT_TIMEOUT_SECONDS", default=2.0)
FIRST_BYTE_TIMEOUT_SECONDS = env.float("FIRST_BYTE_TIMEOUT_SECONDS", default=60.0)
WHOLE_ANSWER_TIMEOUT_SECONDS = env.float("WHOLE_ANSWER_TIMEOUT_SECONDS", default=300.0)
IDLE_TIMEOUT_SECONDS = env.float("IDLE_TIMEOUT_SECONDS", default=60.0)
TOTAL_TIMEOUT_SECONDS = env.float("TOTAL_TIMEOUT_SECONDS", default=600.0)
KEEPALIVE_SECONDS = env.float("KEEPALIVE_SECONDS", default=15.0)
CHECK_STREAMS = env.str("CHECK_STREAMS", default="log" if DEBUG else "off")
SLOW_READER_SECONDS = env.float("SLOW_READER_SECONDS", default=60.0)
DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=20.0)
UPSTREAM_CONNECTIONS = env.int("UPSTREAM_CONNECTIONS", default=2000)
HOLD_LEASE_SECONDS = env.float("HOLD_LEASE_SECONDS", default=60.0)
DATABASE_DEADLINE_SECONDS = env.float("DATABASE_DEADLINE_SECONDS", default=1.0)
SPOOL_DIR = env.str("SPOOL_DIR", default=str(state.folder() / "spool"))
RESPONSES_RETENTION_DAYS = env.int("RESPONSES_RETENTION_DAYS", default=30)
CONTENT_MAX_DAYS = env.int("CONTENT_MAX_DAYS", default=30)
if not 0 <= CONTENT_MAX_DAYS <= 30:
    raise environ.ImproperlyConfigured("CONTENT_MAX_DAYS is 0 to 30.")
CONTENT_MAX_BYTES = env.int("CONTENT_MAX_BYTES", default=256 * 1024)
if CONTENT_MAX_BYTES < 1:
    raise environ.ImproperlyConfigured("CONTENT_MAX_BYTES is at least 1; CONTENT_MAX_DAYS=0 stores nothing.")
DEFAULT_RPM = env.int("DEFAULT_RPM", default=600)
MANAGEMENT_RPM = env.int("MANAGEMENT_RPM", default=120)
DEFAULT_MARKUP_PPM = env.int("DEFAULT_MARKUP_PPM", default=0)
FREE_SHARE_PER_ACCOUNT = env.float("FREE_SHARE_PER_ACCOUNT", default=0.1)
WELCOME_CREDIT_USD = env.str("WELCOME_CREDIT_USD", default="0")
WELCOME_CREDIT_DAYS = env.int("WELCOME_CREDIT_DAYS", default=0)
ADJUSTMENT_LIMIT_USD = env.str("ADJUSTMENT_LIMIT_USD", default="100")
WEB_CONCURRENCY = env.int("WEB_CONCURRENCY", default=2)

# -- Payments ------------------------------------------------------------------------------------------------------------------------

STRIPE = "https://api.stripe.com"
STRIPE_SECRET_KEY = env.str("STRIPE_SECRET_KEY", default="")
STRIPE_WEBHOOK_SECRETS = [secret.strip() for secret in env.list("STRIPE_WEBHOOK_SECRETS", default=[]) if secret.strip()]
STRIPE_API_BASE = env.str("STRIPE_API_BASE", default="https://api.stripe.com").rstrip("/")
STRIPE_SIMULATED = env.str("STRIPE_SIMULATED", default="")
if STRIPE_SIMULATED not in ("", "yes", "yes-without-money"):
    raise environ.ImproperlyConfigured("STRIPE_SIMULATED is empty, yes, or yes-without-money.")
if STRIPE_SIMULATED == "yes" and not DEBUG:
    raise environ.ImproperlyConfigured(
        "STRIPE_SIMULATED=yes gives credit for no money and needs DEBUG. If that is meant here, say STRIPE_SIMULATED=yes-without-money."
    )
if STRIPE_API_BASE != STRIPE and not STRIPE_SIMULATED:
    raise environ.ImproperlyConfigured("STRIPE_API_BASE may differ from Stripe's own address only with STRIPE_SIMULATED.")
if STRIPE_SIMULATED and "_live_" in STRIPE_SECRET_KEY:
    raise environ.ImproperlyConfigured("STRIPE_SECRET_KEY is a live key, and STRIPE_SIMULATED is set: a live key goes to Stripe alone.")
STRIPE_TAX = env.bool("STRIPE_TAX", default=False)
STRIPE_PROMOTION_CODES = env.bool("STRIPE_PROMOTION_CODES", default=False)
TOP_UP_MINIMUM_USD = env.int("TOP_UP_MINIMUM_USD", default=5)
TOP_UP_MAXIMUM_USD = env.int("TOP_UP_MAXIMUM_USD", default=10000)
TOP_UP_PRESETS_USD = [int(amount) for amount in env.list("TOP_UP_PRESETS_USD", default=["10", "25", "50", "100", "250"])]
FREEZE_ON_DISPUTE = env.bool("FREEZE_ON_DISPUTE", default=False)
PAST_DUE_GRACE_DAYS = env.int("PAST_DUE_GRACE_DAYS", default=7)

# -- Mail and webhooks ---------------------------------------------------------------------------------------------------------------

EMAIL_URL = env.str("EMAIL_URL", default="consolemail://" if DEBUG else "")  # empty: no mail is sent
_MAIL = env.email_url_config(EMAIL_URL or "dummymail://")
EMAIL_BACKEND = _MAIL["EMAIL_BACKEND"]
EMAIL_HOST = _MAIL["EMAIL_HOST"] or ""
EMAIL_PORT = _MAIL["EMAIL_PORT"] or 25
EMAIL_HOST_USER = _MAIL["EMAIL_HOST_USER"] or ""
EMAIL_HOST_PASSWORD = _MAIL["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS = _MAIL.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _MAIL.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="Tollgate <noreply@localhost>")
SUPPORT_EMAIL = env.str("SUPPORT_EMAIL", default="")
STAFF_ALERT_EMAILS = env.list("STAFF_ALERT_EMAILS", default=[])
WEBHOOK_ALLOW_PRIVATE = env.bool("WEBHOOK_ALLOW_PRIVATE", default=False)

# -- The management API --------------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "gateway_site.api_errors.translate_rest_error",
    "DEFAULT_SCHEMA_CLASS": "billing.management_api.openapi.Description",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tollgate management API",
    "VERSION": "1",
    "DESCRIPTION": "Keys, budgets, the ledger, members and webhook endpoints of an account, for its management keys.",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/v1",
    "TAGS": [
        {"name": "keys", "description": "Keys that call models: made, changed, rerolled and revoked; and the budgets of those that work."},
        {"name": "money", "description": "What moved in and out of the wallet."},
        {"name": "members", "description": "Who belongs to the account, and who is invited."},
        {"name": "webhooks", "description": "Where programs are told what happens."},
    ],
    "COMPONENT_SPLIT_PATCH": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "Role": "accounts.models.Membership.Role",
        "Window": "keys.models.ApiKey.Window",
        "Kind": "keys.models.ApiKey.Kind",
    },
}

# -- Celery --------------------------------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = state.broker_url(REDIS_URL)

# -- Logs ----------------------------------------------------------------------------------------------------------------------------

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOG_FORMAT = env.str("LOG_FORMAT", default="text" if DEBUG else "json")
LOGGING_CONFIG = "gateway_site.logs.configure"
LOGGING = {"level": LOG_LEVEL, "format": LOG_FORMAT}

# -- Metrics -------------------------------------------------------------------------------------------------------------------------

METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

# -- Admin theme ---------------------------------------------------------------------------------------------------------------------

UNFOLD: dict[str, object] = {
    "SITE_TITLE": "Tollgate",
    "SITE_HEADER": "Tollgate",
    "SITE_SYMBOL": "toll",
    "SITE_ICON": f"{STATIC_URL}favicon.svg",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": f"{STATIC_URL}favicon.svg"}],
    "STYLES": ["gateway_site.admin.style_sheet"],
    "SCRIPTS": ["gateway_site.admin.script"],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "ENVIRONMENT": "gateway_site.admin.environment",
    "DASHBOARD_CALLBACK": "gateway_site.admin.overview.overview",
    "SIDEBAR": {"show_search": True, "navigation": "gateway_site.admin.navigation"},
    "COLORS": {"primary": {str(step): f"var(--color-blue-{step})" for step in (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)}},
}
