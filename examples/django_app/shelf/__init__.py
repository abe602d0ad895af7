"""The one app of the project: books and loans."""
