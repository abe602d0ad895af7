"""What runs inside a sub-interpreter: a worker's bootstrap, its event loop and its threads."""
