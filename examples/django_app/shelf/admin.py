from django.contrib import admin

from examples.django_app.shelf.models import Book, Loan

admin.site.site_header = admin.site.site_title = "Bookshelf"


class LoanInline(admin.TabularInline):
    model = Loan
    extra = 0
    readonly_fields = ["taken_at"]


@admin.register(Book)
class BookAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "year", "added_at"]
    search_fields = ["title", "author"]
    inlines = [LoanInline]


@admin.register(Loan)
class LoanAdmin(admin.ModelAdmin):
    list_display = ["book", "borrower", "taken_at", "returned_at"]
    list_filter = ["returned_at"]
    list_select_related = ["book"]
    readonly_fields = ["taken_at"]
