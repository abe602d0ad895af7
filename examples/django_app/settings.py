"""Settings of the project; what differs from one deployment to the next is read from variables.

The README lists the variables. An empty one counts as one that is not set.
"""

import os
from pathlib import Path

from django.utils.csp import CSP

from examples.django_app import database

HERE = Path(__file__).parent


def _words(variable: str) -> list[str]:
    return os.environ.get(variable, "").replace(",", " ").split()


# Public, so never deploy with it. A constant and not a random value, because all workers must
# accept each other's sessions and form tokens.
DEVELOPMENT_SECRET_KEY = "bookshelf-development-key-that-everybody-can-read-and-nobody-may-deploy"

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or DEVELOPMENT_SECRET_KEY
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = _words("DJANGO_ALLOWED_HOSTS") or ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = _words("DJANGO_CSRF_TRUSTED_ORIGINS")

# Behind TLS: cookies travel over HTTPS only.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = os.environ.get("DJANGO_HTTPS") == "1"
SECURE_CSP = {"default-src": [CSP.SELF], "img-src": [CSP.SELF, "data:"]}

DATA_DIR = Path(os.environ.get("DJANGO_DATA_DIR") or HERE / "data").absolute()

if _database_url := os.environ.get("DATABASE_URL"):
    DATABASES = {"default": database.from_url(_database_url)}
else:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    DATABASES = {"default": database.sqlite(DATA_DIR / "bookshelf.sqlite3")}

# `startup.py` migrates the SQLite file of our own, so that a first look needs no command. For a
# database that somebody else runs, migrating is a step of the deployment.
MIGRATE_ON_START = not _database_url

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "examples.django_app.shelf",
]

MIDDLEWARE = [
    "examples.django_app.worker.worker_header",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [HERE / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "examples.django_app.worker.worker_context",
            ],
        },
    },
]

ROOT_URLCONF = "examples.django_app.urls"
WSGI_APPLICATION = "examples.django_app.wsgi.application"

STATIC_URL = "/static/"
STATIC_ROOT = HERE / "static_root"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"

# Without this, Django mails errors to ADMINS and prints them only in debug mode.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "examples.django_app": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
