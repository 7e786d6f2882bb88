"""The three real servers on a CPU: their installer, tiny models, and the tests that drive them from a YAML file."""
