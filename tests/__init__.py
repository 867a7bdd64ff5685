"""The tests of enjin: they mirror the tree."""
