"""A few books, so that a new shelf is not empty."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

FIRST_BOOKS = [
    ("Frankenstein", "Mary Shelley", 1818),
    ("Middlemarch", "George Eliot", 1871),
    ("The Time Machine", "H. G. Wells", 1895),
    ("Through the Looking-Glass", "Lewis Carroll", 1871),
    ("Twenty Thousand Leagues Under the Seas", "Jules Verne", 1870),
]


def add_books(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    books = apps.get_model("shelf", "Book").objects.using(schema_editor.connection.alias)
    for title, author, year in FIRST_BOOKS:
        books.create(title=title, author=author, year=year)


class Migration(migrations.Migration):
    dependencies = [("shelf", "0001_initial")]

    operations = [
        # Going back leaves the books alone: 0001, undone, drops their table anyway.
        migrations.RunPython(add_books, migrations.RunPython.noop),
    ]
