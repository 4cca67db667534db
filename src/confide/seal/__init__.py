"""End-to-end encryption between a client and this service, as state machines that do no I/O."""
