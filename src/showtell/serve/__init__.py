"""Captions over HTTP: `showtell serve`, and the page at `/`. No torch here; the captioner brings what it needs."""
