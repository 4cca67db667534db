"""What the server proves, checked as a client checks it: over sockets, byte by byte."""
