"""Data sets: frozen dataclasses whose train() and val() give (image, label) by index."""

from distill.data.arrays import ArrayImages, Arrays
from distill.data.bad import BadImage, BadImages
from distill.data.contract import UNLABELLED, Data, Images
from distill.data.decode import open_image
from distill.data.files import FileImages, Paths, class_folders, files_digest, image_files
from distill.data.folder import Folder
from distill.data.huggingface import HuggingFace
from distill.data.shards import Shards
from distill.data.synthetic import Synthetic
from distill.data.torchvision_sets import Torchvision

__all__ = [
    "UNLABELLED",
    "ArrayImages",
    "Arrays",
    "BadImage",
    "BadImages",
    "Data",
    "FileImages",
    "Folder",
    "HuggingFace",
    "Images",
    "Paths",
    "Shards",
    "Synthetic",
    "Torchvision",
    "class_folders",
    "files_digest",
    "image_files",
    "open_image",
]
