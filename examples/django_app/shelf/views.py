"""Pages for people: plain synchronous views with templates and forms."""

from django.contrib import messages
from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from examples.django_app.shelf.forms import BookForm, LoanForm
from examples.django_app.shelf.models import Book

BOOKS_PER_PAGE = 20


@require_http_methods(["GET", "HEAD", "POST"])
def book_list(request: HttpRequest) -> HttpResponse:
    """List and search the books; a POST adds one."""
    form = BookForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        book = form.save()
        messages.success(request, f"“{book.title}” is on the shelf.")
        return redirect("shelf:books")
    search = request.GET.get("q", "").strip()
    books = Book.objects.matching(search).with_borrower()
    page = Paginator(books, BOOKS_PER_PAGE).get_page(request.GET.get("page"))
    context = {"form": form, "page": page, "search": search}
    return render(request, "shelf/book_list.html", context)


@require_safe
def book_detail(request: HttpRequest, book_id: int) -> HttpResponse:
    """Show one book, who has it, and who had it."""
    book = get_object_or_404(Book.objects.with_borrower(), pk=book_id)
    context = {"book": book, "form": LoanForm(), "loans": book.loans.all()[:20]}
    return render(request, "shelf/book_detail.html", context)


@require_POST
def lend(request: HttpRequest, book_id: int) -> HttpResponseRedirect:
    """Note who takes a book away."""
    book = get_object_or_404(Book, pk=book_id)
    form = LoanForm(request.POST)
    form.instance.book = book
    if not form.is_valid():
        messages.error(request, "Please give a name of up to 80 characters.")
        return redirect(book)
    try:
        with transaction.atomic():
            loan = form.save()
    except IntegrityError:
        messages.error(request, "Somebody has borrowed this book a moment ago.")
    else:
        messages.success(request, f"Enjoy reading, {loan.borrower}!")
    return redirect(book)


@require_POST
def take_back(request: HttpRequest, book_id: int) -> HttpResponseRedirect:
    """Note that a book is back."""
    book = get_object_or_404(Book, pk=book_id)
    if book.loans.filter(returned_at=None).update(returned_at=timezone.now()):
        messages.success(request, f"“{book.title}” is back on the shelf.")
    else:
        messages.error(request, "This book is not on loan.")
    return redirect(book)
