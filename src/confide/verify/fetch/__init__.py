"""What vendors publish, from the network and kept on the disk. Only used where a person allowed it."""
