"""The HTTP door: the same closed table of commands and queries, for browsers, tokens and whoever cannot reach the bus.

``door`` is the application, ``listener`` serves it on an inherited descriptor, ``openapi`` describes it, ``blobs`` takes
uploads, ``feed`` streams observations and logs, ``problems`` says what went wrong, ``bodies`` reads what came in.

INV-HTTP-1: nothing is decided or answered but through a signed envelope that passes every stage of the dispatcher; for
a token the door signs, in the name of the token's account, and the account's permission counts.
INV-HTTP-2: every route stems from the table or stands in the description; there is no other.
INV-HTTP-3: headers, bodies, connections and streams are bounded.
"""
