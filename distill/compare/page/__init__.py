"""The report as one self-contained page: `write(folder, report, pictures)`."""

from distill.compare.page.compared import write_compared
from distill.compare.page.pictures import Eye, Pictures, draw
from distill.compare.page.render import render, write

__all__ = ["Eye", "Pictures", "draw", "render", "write", "write_compared"]
