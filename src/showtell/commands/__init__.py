"""One module per command. They parse, check and print; the work is done elsewhere."""
