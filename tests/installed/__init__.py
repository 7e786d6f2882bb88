"""What is known of installed programs: looked up at every load, read on demand."""
