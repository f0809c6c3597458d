"""One file a command. They parse, check and print; what they do lives elsewhere."""
