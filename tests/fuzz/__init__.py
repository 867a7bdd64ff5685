"""Fuzzing of everything that parses bytes from somebody else: targets, the fuzzer's runner, and a few seconds of it in every test run."""
