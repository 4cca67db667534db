"""Asking this machine for evidence: dstack's guest agent, configfs-tsm, NVML, and the development PKI."""
