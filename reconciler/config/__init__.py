"""From the user's text to a Fleet, or to every problem with its place; and edits of the text that keep its comments. Starts nothing."""
