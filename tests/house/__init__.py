"""The rules of the house as functions over a source tree; `tests/test_architecture.py` applies them and proves that each can fail."""
