"""Django with psycopg: requests are let in by their token.

    python3 -m venv .venv && .venv/bin/pip install django gunicorn 'psycopg[binary]'
    .venv/bin/gunicorn -b 127.0.0.1:8000 --forwarder-headers= server:app        with DATABASE_URL
"""

import functools
import os
import sys
from datetime import timedelta

import psycopg.conninfo
from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.wsgi import get_wsgi_application
from django.db import DatabaseError, connection, transaction
from django.http import JsonResponse
from django.urls import include, path

# --- To copy: from here -----------------------------------------------------------------------------------------------


def presented(request) -> list:
    """The token, method and raw path of a request. All are text.

    gunicorn puts the raw target into RAW_URI, uWSGI into REQUEST_URI; behind ASGI it is `request.scope["raw_path"]`. `request.path`
    is decoded. Django's development server keeps no raw path: there this is a KeyError, not a guess.
    """
    raw = request.META["RAW_URI"] if "RAW_URI" in request.META else request.META["REQUEST_URI"]
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return [request.headers.get("X-Temp-Token") or bearer, request.method, raw.partition("?")[0]]


# The names that try_validate and peek answer, for the SQLSTATEs that validate raises.
REFUSALS = {
    "TT001": "token_not_found",
    "TT002": "token_expired",
    "TT003": "scope_unknown",
    "TT004": "route_not_allowed",
    "TT006": "token_used_up",
}


class Refused(Exception):
    """A refusal by its name: a status of try_validate or peek, or that the resource is gone."""


def guarded(function: str):
    """A decorator of views that judges before them. The token's row is in `request.token`."""
    def decorate(view):
        @functools.wraps(view)
        def judging(request, *args, **kwargs):
            request.token = judge(function, request)
            if request.token["status"] != "ok":
                raise Refused(request.token["status"])
            return view(request, *args, **kwargs)
        return judging
    return decorate


def judge(function: str, request) -> dict:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM auth.{function}(%s, %s, %s)", presented(request))
        return dict(zip((column.name for column in cursor.description), cursor.fetchone()))


# Way one, for reading: one call judges, and spends where the scope says so.
letting_in = guarded("temptoken_try_validate")
# Way two, for work: refuses early and spends nothing. The view calls `validated` within the transaction of its work.
peeked = guarded("temptoken_peek")
# Raises a DatabaseError, which `Answers` answers: if the work fails after it, the use comes back.
validated = functools.partial(judge, "temptoken_validate")


def mint(resource_id: str) -> str:
    """A TTL is a timedelta; ids are text. A `replace => true` in the call ends the earlier links to this id."""
    sql = "SELECT auth.temptoken_mint('files', %s, %s)"  # 'files' is your scope.
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, [resource_id, timedelta(minutes=15)])
            return cursor.fetchone()[0]
    except DatabaseError as error:
        if not (sqlstate_of(error) or "").startswith("TT"):
            raise
        print("not minted:", sqlstate_of(error), file=sys.stderr)
        raise BadRequest("no link can be made for this") from None


def sqlstate_of(error: DatabaseError):
    """Django wraps the driver's error, which has the SQLSTATE."""
    return getattr(error.__cause__, "sqlstate", None)


class Answers:
    """For settings.MIDDLEWARE. All refusals are alike to the stranger, and told apart in the log. What is wrong with the database is
    none."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response.setdefault("Cache-Control", "no-store")  # No cache keeps an answer, unless its view sets a header of its own.
        return response

    def process_exception(self, _request, error):
        if not isinstance(error, (Refused, DatabaseError)):
            return None
        name = str(error) if isinstance(error, Refused) else REFUSALS.get(sqlstate_of(error))
        if name is None:
            print("database:", type(error).__name__, sqlstate_of(error), file=sys.stderr)
            return JsonResponse({"error": "unavailable"}, status=503)
        print("refused", name, file=sys.stderr)
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"', "Cache-Control": "no-store"}
        return JsonResponse({"error": "invalid_token"}, status=401, headers=headers)


# --- to here ----------------------------------------------------------------------------------------------------------


@letting_in
def read(request, id):
    return JsonResponse({"id": id, "resource_id": request.token["resource_id"]})


@peeked
def approve(request, id):
    with transaction.atomic():
        token = validated(request)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE flows SET approved = true WHERE id = %s", [token["resource_id"]])
            if not cursor.rowcount:
                raise Refused("resource_gone")
        if request.GET.get("fail"):
            raise RuntimeError("the work has failed")
    return JsonResponse({"approved": token["resource_id"]})


def link(request, id):
    return JsonResponse({"token": mint(id)})


given = psycopg.conninfo.conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(
    SECRET_KEY="of the example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    APPEND_SLASH=False,
    MIDDLEWARE=[f"{__name__}.Answers"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given["user"],
        "PASSWORD": given.get("password", ""), "HOST": given["host"], "PORT": given.get("port", ""),
        # Otherwise Django puts parameters into the statement itself, and PostgreSQL's log has the token where it has the statement.
        "OPTIONS": {"server_side_binding": True},
    }},
)
urlpatterns = [
    path("files/", include([path("<str:id>", read)])),
    path("flows/<str:id>/approve", approve),
    path("links/<str:id>", link),
]
app = get_wsgi_application()
