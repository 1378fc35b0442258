"""A row → the parts of a comparison: which shape a file has, and what its columns say."""
