"""The world that every daemon keeps track of: rows, the facts that change them, and what can be computed from them.

`World` is the fold of a journal's facts; `tables` is the same in SQL. Nothing here does I/O except `tables`, and nothing
here decides who may ask: rules stand in the rings' service modules.
"""
