"""Views for programs: JSON, from synchronous and from asynchronous code."""

import threading

from django.db import connection
from django.db.models import Count, Q
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from examples.django_app.shelf.models import Book, Loan
from subserve import current_worker

MAX_BOOKS = 100


@require_safe
def books(request: HttpRequest) -> JsonResponse:
    """List up to `MAX_BOOKS` books; ``?q=`` searches titles and authors."""
    found = Book.objects.matching(request.GET.get("q", "").strip()).with_borrower()
    fields = ("id", "title", "author", "year", "borrower")
    return JsonResponse({"count": found.count(), "books": list(found.values(*fields)[:MAX_BOOKS])})


@require_safe
async def summary(_request: HttpRequest) -> JsonResponse:
    """Count books and loans, and name the newest books, with the asynchronous ORM."""
    counts = await Book.objects.aaggregate(
        books=Count("pk", distinct=True),
        on_loan=Count("loans", filter=Q(loans__returned_at=None)),
    )
    newest = [book.title async for book in Book.objects.order_by("-pk")[:3]]
    return JsonResponse({**counts, "loans_ever": await Loan.objects.acount(), "newest": newest})


@require_safe
def health(_request: HttpRequest) -> JsonResponse:
    """Answer once the database did: for load balancers and container probes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "ok"})


@require_safe
def whoami(_request: HttpRequest) -> JsonResponse:
    """Describe the worker, and the thread that runs a synchronous view in it."""
    return JsonResponse(_description("sync"))


@require_safe
async def whoami_async(_request: HttpRequest) -> JsonResponse:
    """Describe the worker, and the thread that runs an asynchronous view in it."""
    return JsonResponse(_description("async"))


def _description(view: str) -> dict[str, object]:
    worker = current_worker()
    return {
        "index": worker.index if worker else None,
        "generation": worker.generation if worker else None,
        "workers": worker.workers if worker else None,
        "view": view,
        "thread": threading.current_thread().name,
    }
