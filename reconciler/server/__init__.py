"""HTTP: management routes, health, and the door to the proxy. Decides nothing; every handler is one call of the controller."""
