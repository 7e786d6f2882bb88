"""The host as the daemon meets it: clock, state folder, HTTP probes."""
