"""The loss library: for each loss a pure function on tensors, and a frozen dataclass that a recipe names."""

from distill.losses.attention import AttentionTransfer, attention_transfer
from distill.losses.contract import Address, Bound, Head, Layer, Loss, Needs
from distill.losses.contrast import CRD, crd
from distill.losses.correlation import DIST, dist
from distill.losses.decoupled import DKD, NKD, dkd, nkd
from distill.losses.embedding import CosineEmbedding, cosine_embedding
from distill.losses.hint import Hint, hint, standardize_channels
from distill.losses.labels import CrossEntropy, cross_entropy
from distill.losses.logits import BCETargets, HardTargets, SoftTargets, bce_targets, hard_targets, soft_targets
from distill.losses.manifolds import Manifold, manifold
from distill.losses.pairs import Pair, match_size
from distill.losses.relations import RKD, SimilarityPreserving, rkd, similarity_preserving
from distill.losses.schedule import Schedule
from distill.losses.stages import OFA, ofa
from distill.losses.standardize import standardize
from distill.losses.vitkd import ViTKD, masked_squared_error, squared_error

__all__ = [
    "CRD",
    "DIST",
    "DKD",
    "NKD",
    "OFA",
    "RKD",
    "Address",
    "AttentionTransfer",
    "BCETargets",
    "Bound",
    "CosineEmbedding",
    "CrossEntropy",
    "HardTargets",
    "Head",
    "Hint",
    "Layer",
    "Loss",
    "Manifold",
    "Needs",
    "Pair",
    "Schedule",
    "SimilarityPreserving",
    "SoftTargets",
    "ViTKD",
    "attention_transfer",
    "bce_targets",
    "cosine_embedding",
    "crd",
    "cross_entropy",
    "dist",
    "dkd",
    "hard_targets",
    "hint",
    "manifold",
    "masked_squared_error",
    "match_size",
    "nkd",
    "ofa",
    "rkd",
    "similarity_preserving",
    "soft_targets",
    "squared_error",
    "standardize",
    "standardize_channels",
]
