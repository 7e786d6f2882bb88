"""Other tools' files as instances of ours. Each importer is one file here; what it cannot carry over it says, with the place."""
