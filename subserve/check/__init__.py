"""``subserve check``: does an app work in sub-interpreters, and what of it does not?

The command line starts a process that is thrown away (`process`), in which several workers load the
app, serve and end as they do in a server (`child`), watched from within (`probe`, `watch`).  What
they see comes out as events, one at a time, so that a crash leaves all that came before it; it is
judged (`findings`), and printed (`table`).  See docs/check.md.
"""
