"""For applications: HTTP clients that talk only to a server that proved itself, and the local proxy."""
