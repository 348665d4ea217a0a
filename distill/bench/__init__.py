"""`python -m distill bench`: how fast each part of a recipe is on this machine, and beside what others offer."""
