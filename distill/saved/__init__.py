"""Saved teacher outputs: the teacher is asked once about every view, and any number of students learn from it."""
