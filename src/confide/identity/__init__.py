"""This server's private keys, one per role; its keyset; and what is signed with them."""
