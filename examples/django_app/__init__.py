"""Bookshelf, a Django project (ASGI and WSGI): the books of an office, and who has which."""
