"""The hub: one process per channel that passes frames from whoever is enrolled to whoever subscribed.

``python -m bus.hub --config FD|PATH`` (also ``python -m bus.over_zmq``). ``settings`` reads what it is told, ``serving``
holds the sockets, ``trial`` tries strangers at start. Opens no frame, holds no key but its own CURVE secret and gives
no authority: whatever it loses, repeats or lets through is caught by the receivers' own checks.

INV-HUB-1: ZAP answers before a socket is bound; NULL, PLAIN and unknown keys are refused, which is tried at start.
INV-HUB-2: a key file that is missing or unreadable allows nobody.
INV-HUB-3: a revoked key is cut: what it still pushes is dropped by its User-Id, and the XPUB socket is bound anew.
INV-HUB-4: one bad message, topic or stranger never ends the process; every queue has a bound.

Few imports, because it lives as long as its ring: libzmq and the ground only.
"""
