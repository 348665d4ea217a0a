"""Compare students with their teacher: measured once, written as JSON and Markdown, shown as a table."""
