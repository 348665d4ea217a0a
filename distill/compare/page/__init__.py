"""The report as one self-contained page: `write(folder, report, pictures)`."""

from distill.compare.page.compared import write_compared
from distill.compare.page.html import render, write
from distill.compare.page.pictures import Eye, Pictures, draw

__all__ = ["Eye", "Pictures", "draw", "render", "write", "write_compared"]
