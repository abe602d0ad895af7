"""For those who test apps: a pytest plugin, in pieces.

``pytest --subinterpreters`` runs a suite where a worker runs an app, in a sub-interpreter with its
own GIL, and the fixture `subserve_server` serves an app for a test.  See docs/pytest.md.

pytest imports `plugin`, which is small and imports the rest when it is used; nothing that serves
imports any of this.

- `plugin`: options, and the fixture
- the process that the user started: `controller`, `player`, `plan`, `crash`, `reports`,
  `process`
- the process that runs the tests, and may crash: `child`, `hosting`; in each of its interpreters
  `worker`, `surroundings` and, pytest's session there, `session`
- between the two: `link`, `task`
- a served app: `served` starts the process of `serving`
"""
