"""Books, and who has borrowed them."""

from typing import Self

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.urls import reverse


class BookQuerySet(models.QuerySet["Book"]):
    def matching(self, text: str) -> Self:
        """Keep books whose title or author contains `text`; all of them if it is empty."""
        if not text:
            return self
        return self.filter(Q(title__icontains=text) | Q(author__icontains=text))

    def with_borrower(self) -> Self:
        """Add `borrower`, the name of who has the book, or None if it is on the shelf."""
        open_loans = Loan.objects.filter(book=OuterRef("pk"), returned_at=None)
        return self.annotate(borrower=Subquery(open_loans.values("borrower")[:1]))


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.CharField(max_length=200)
    year = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MaxValueValidator(9999)]
    )
    added_at = models.DateTimeField(auto_now_add=True)

    objects = BookQuerySet.as_manager()

    class Meta:
        ordering = ["title", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["title", "author"],
                name="book_once",
                violation_error_message="This book is on the shelf already.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.author})"

    def get_absolute_url(self) -> str:
        return reverse("shelf:book", args=[self.pk])


class Loan(models.Model):
    """A book with somebody: until `returned_at`, or still if that is None."""

    book = models.ForeignKey(Book, on_delete=models.CASCADE, related_name="loans")
    borrower = models.CharField(max_length=80)
    taken_at = models.DateTimeField(auto_now_add=True)
    returned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-taken_at", "-pk"]
        constraints = [
            # The database decides when two workers lend the same book at the same moment.
            models.UniqueConstraint(
                fields=["book"],
                condition=Q(returned_at=None),
                name="one_open_loan_per_book",
                violation_error_message="This book is on loan.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.book.title}: {self.borrower}"
