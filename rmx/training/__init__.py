"""The loop, its steps and sums, its settings, and how it continues."""
