"""Where backends run: effects without opinions, one file per runtime. A runtime does one action at a time, or refuses it."""
