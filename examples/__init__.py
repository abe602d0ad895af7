"""Applications that a team could have written, one for each framework, served by subserve."""
