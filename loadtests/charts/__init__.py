"""Charts of a run; run by the Python of the environment, which has matplotlib."""
