"""The page, in a real browser against running servers."""
