"""The finished model on disk: saved, verified, described, published, exported."""
