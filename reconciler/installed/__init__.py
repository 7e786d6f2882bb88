"""What is known of the programs that are installed on this host, for everyone who loads a file.

``known`` reads, keeps and looks up their options; ``probe`` reads all that one file needs. Beside ``app`` and ``daemon`` the only
place that knows concrete backends.
"""
