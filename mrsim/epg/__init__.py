"""Extended phase graphs."""
