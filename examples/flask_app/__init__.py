"""Postcards, a Flask (WSGI) app: a wall where visitors leave notes and pictures."""
