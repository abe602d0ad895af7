"""The apps that are served under load; every contender serves the same files."""
