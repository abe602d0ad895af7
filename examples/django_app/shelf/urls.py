from django.urls import path

from examples.django_app.shelf import api, views

app_name = "shelf"
urlpatterns = [
    path("", views.book_list, name="books"),
    path("books/<int:book_id>/", views.book_detail, name="book"),
    path("books/<int:book_id>/lend/", views.lend, name="lend"),
    path("books/<int:book_id>/take-back/", views.take_back, name="take-back"),
    path("api/books/", api.books, name="api-books"),
    path("api/summary/", api.summary, name="api-summary"),
    path("health/", api.health, name="health"),
    path("whoami/", api.whoami, name="whoami"),
    path("whoami/async/", api.whoami_async, name="whoami-async"),
]
