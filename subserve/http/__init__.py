"""The lanes: what turns the bytes of a connection into calls of the app, and back."""
