"""Make a checkout ready to run: uv, a Python new enough, and a virtual environment.

`python3 -m tools.bootstrap venv` is what the Makefile runs before most of its verbs.  It has to
work on any Python from 3.6 on, with nothing but the standard library, pip and ensurepip not
assumed.
Everything it fetches goes into the checkout: `.venv*`, `.python/` and `.cache/`.
"""
