"""Faults made to happen to small runs, and what became of them: python -m tests.torture --minutes 30."""
