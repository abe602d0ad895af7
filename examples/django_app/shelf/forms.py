from django import forms

from examples.django_app.shelf.models import Book, Loan


class BookForm(forms.ModelForm):
    class Meta:
        model = Book
        fields = ["title", "author", "year"]


class LoanForm(forms.ModelForm):
    class Meta:
        model = Loan
        fields = ["borrower"]
        labels = {"borrower": "Your name"}
