"""Students in forms that others read; each is checked against the student before it takes its place."""
