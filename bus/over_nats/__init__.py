"""The bus over NATS: for many machines, or on one where the operator chose it.

``participant`` is a transport, ``link`` one logged-in connection, ``accounts`` tells running servers who may log in,
``server`` configures nats-server, ``program`` finds it and ``python -m bus.over_nats`` runs it. A server opens no frame
and gives no authority: whatever it loses, repeats or lets through is caught by the receivers' own checks.

INV-NAT-1: every connection is TLS 1.3 to a certificate of the cloud's own authority, and logs in by nonce.
INV-NAT-2: a channel is an account: no subject passes from one to another.
INV-NAT-3: a server older than the floor is refused by name and version before it serves.
INV-NAT-4: a revoked key is cut while it is connected, and its old token is refused by every server from then on.

Imports the client library only when it is used: it is an extra of setup.cfg, as nats-server is.
"""
