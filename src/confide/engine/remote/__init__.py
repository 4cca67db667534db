"""Engines in processes of their own, over HTTP or a unix socket, behind the same contract as the embedded one."""
