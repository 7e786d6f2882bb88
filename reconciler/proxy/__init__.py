"""The data path: keys, routing, and moving bytes between a client and a replica, unchanged and unbuffered."""
