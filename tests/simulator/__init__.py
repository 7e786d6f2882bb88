"""The simulator, run as a real process: it must act like the real servers and fail exactly as it was told to."""
