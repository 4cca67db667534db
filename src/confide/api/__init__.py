"""HTTP: the routes, and what every answer has in common."""
