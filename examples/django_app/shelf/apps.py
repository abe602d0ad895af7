from django.apps import AppConfig


class ShelfConfig(AppConfig):
    name = "examples.django_app.shelf"
    verbose_name = "Bookshelf"
