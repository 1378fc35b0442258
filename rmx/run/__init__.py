"""One run in progress: its folder, its screen, its signals, its end."""
