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
X_FRAME_OPTIONS = "DENY"

# -- The data plane ------------------------------------------------------------------------------------------------------------------

MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=32 * 1024 * 1024)
CONNECT_TIMEOUT_SECONDS = env.float("CONNECT_TIMEOUT_SECONDS", default=2.0)
FIRST_BYTE_TIMEOUT_SECONDS = env.float("FIRST_BYTE_TIMEOUT_SECONDS", default=60.0)
WHOLE_ANSWER_TIMEOUT_SECONDS = env.float("WHOLE_ANSWER_TIMEOUT_SECONDS", default=300.0)
IDLE_TIMEOUT_SECONDS = env.float("IDLE_TIMEOUT_SECONDS", default=60.0)
TOTAL_TIMEOUT_SECONDS = env.float("TOTAL_TIMEOUT_SECONDS", default=600.0)
KEEPALIVE_SECONDS = env.float("KEEPALIVE_SECONDS", default=15.0)
SLOW_READER_SECONDS = env.float("SLOW_READER_SECONDS", default=60.0)
DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=20.0)
UPSTREAM_CONNECTIONS = env.int("UPSTREAM_CONNECTIONS", default=2000)
HOLD_LEASE_SECONDS = env.float("HOLD_LEASE_SECONDS", default=60.0)
DATABASE_DEADLINE_SECONDS = env.float("DATABASE_DEADLINE_SECONDS", default=1.0)
SPOOL_DIR = env.str("SPOOL_DIR", default=str(state.folder() / "spool"))
RESPONSES_RETENTION_DAYS = env.int("RESPONSES_RETENTION_DAYS", default=30)
DEFAULT_RPM = env.int("DEFAULT_RPM", default=600)
DEFAULT_MARKUP_PPM = env.int("DEFAULT_MARKUP_PPM", default=0)
WEB_CONCURRENCY = env.int("WEB_CONCURRENCY", default=2)

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
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "ENVIRONMENT": "gateway_site.admin.environment",
    "DASHBOARD_CALLBACK": "gateway_site.admin.overview",
    "SIDEBAR": {"show_search": True, "navigation": "gateway_site.admin.navigation"},
    "COLORS": {"primary": {str(step): f"var(--color-blue-{step})" for step in (50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950)}},
}
