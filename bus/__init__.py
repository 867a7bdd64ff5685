"""Signed broadcast: messages, envelopes, transports, the journal and the doors. Knows no domain."""
