"""Release board: a FastAPI application with a database, a chat, a live feed and uploads."""
