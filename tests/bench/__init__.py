"""The figures: what enjin promises in numbers, measured on this machine, with a peer measured in the same run where one can run.

One module per group of figures; `python -m tests.bench [NAME…] [--json]` (which `./bootstrap bench` calls) runs them.
"""
