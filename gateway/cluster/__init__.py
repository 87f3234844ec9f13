"""The nodes of a cluster: who is there (``nodes``), what they say (``wire``), what of it did not arrive (``missed``), what they
have together (``pages``, ``cluster``)."""

from .cluster import NODES_ROOM, Cluster, ClusterStatistics
from .nodes import Node
from .pages import Gathered

__all__ = ["NODES_ROOM", "Cluster", "ClusterStatistics", "Gathered", "Node"]
