"""The one reader of what runs leave: metrics.jsonl, predictions, result files."""
