"""The pure heart: what was declared, what was observed, and what follows from both. No I/O, no clock, no logging, no async."""
