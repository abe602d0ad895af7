"""The parent process: holds the listening sockets, starts, watches and replaces who serves them.

No code of the app runs here, and little of ours is imported: what does nothing cannot break.
"""
