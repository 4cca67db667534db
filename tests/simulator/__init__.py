"""The other sides, behind their real interfaces: a kernel, a guest agent, NVML. Tests break one thing at a time."""
