"""``confide csr``: what an authority needs to issue a certificate for the key with which the server ends TLS."""

from __future__ import annotations

import asyncio

from confide import config, tls
from confide.attest.choose import Places, choose
from confide.cli import console
from confide.cli.options import Config, DataDir, Tee
from confide.config import Settings
from confide.errors import ConfigError
from confide.identity.identity import tls_key


def csr(config_file: Config = None, tee: Tee = None, data_dir: DataDir = None) -> None:
    """Print a request, in PEM, for a certificate of the TLS key of the server."""
    settings = config.load({"tee": tee, "data_dir": data_dir}, config_file=config_file)
    console.say(asyncio.run(_request(settings)).decode().rstrip())


async def _request(settings: Settings) -> bytes:
    sources = choose(settings.tee, Places(settings.data_dir))
    try:
        if sources.keys is None:
            raise ConfigError(
                "Here a server's TLS key ends with its process, and a certificate with it. Keys that stay are released "
                "by dstack's KMS; elsewhere use tls_acme, or self-signed certificates."
            )
        return tls.csr(await tls_key(sources.keys), settings.tls_domains)
    finally:
        await sources.aclose()
