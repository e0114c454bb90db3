"""Class matrices and nested class indices from a tree, such as a taxonomy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.costs.builders import softmax, split_groups
from equipoise.costs.matrix import ClassMatrix, Kind, check_names

Node = str | tuple[Any, ...]  # the name of a class, or the nodes below


def from_tree(
    tree: Any, kind: Kind = "costs", *, beta: float = 10.0, classes: Sequence[object] | None = None
) -> ClassMatrix:
    r"""Return a matrix from a tree whose leaves are the classes.

    With d the height of the lowest common ancestor of two classes (the number of steps from it down to its
    deepest leaf) and h the height of the tree,

    .. math:: C_{yk} = d(y, k), \qquad S_{yk} \propto e^{-\beta\, d(y, k) / h}.

    Args:
        tree: Nested mappings and sequences around the names of the classes:
            `{"land": ["horse", "zebra"], "sea": ["whale", "shark"]}`, or without names of the inner nodes
            `[["horse", "zebra"], ["whale", "shark"]]`.
        kind: "costs" or "similarity".
        beta: At least 0; the larger beta, the larger the diagonal. 30 is nearly one-hot, 4 spreads widely.
        classes: Order of the classes; None for that of the tree.

    Raises:
        ValueError: If tree is no tree, classes are not its leaves, or beta is out of range.

    Example:
        >>> print(from_tree({"land": ["horse", "zebra"], "sea": ["whale", "shark"]}))
        costs[true, predicted]
               horse  zebra  whale  shark
        horse      0      1      2      2
        zebra      1      0      2      2
        whale      2      2      0      1
        shark      2      2      1      0

    Source:
        Bertinetto et al., CVPR 2020, arXiv:1912.09393.
    """
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta must be finite and at least 0, got {beta}; 0 makes all classes alike")
    root = _node(tree)
    names = _class_names(root, classes)
    place = {name: k for k, name in enumerate(names)}
    heights = np.zeros((len(names), len(names)))
    _set_heights(root, place, heights)
    if kind != "similarity":
        return ClassMatrix(heights, names, kind=kind)
    return ClassMatrix(softmax(-beta * heights / max(heights.max(), 1)), names, kind=kind)


def index_tree(tree: Any, classes: Sequence[object] | None = None) -> Any:
    """Return a tree in the form that `HierarchicalCrossEntropy` takes: nested tuples of class indices.

    Args:
        tree: As in `from_tree`, or groups, "horse, zebra | whale, shark".
        classes: Names of the classes in the order of their indices, every leaf once; None for the order of
            the leaves in the tree.

    Raises:
        ValueError: If tree is no tree, or classes are not its leaves.

    Example:
        >>> index_tree("horse, zebra | whale, shark", ["horse", "shark", "whale", "zebra"])
        ((0, 3), (2, 1))
    """
    root = _node(split_groups(tree) if isinstance(tree, str) else tree)
    place = {name: k for k, name in enumerate(_class_names(root, classes))}

    def indices(node: Node) -> Any:
        return place[node] if isinstance(node, str) else tuple(map(indices, node))

    found = indices(root)
    return found if isinstance(found, tuple) else (found,)


def _node(tree: Any) -> Node:
    """Return a tree as nested tuples of class names."""
    if isinstance(tree, Mapping):
        return tuple(map(_node, tree.values()))
    if isinstance(tree, list | tuple | np.ndarray):
        below = tuple(map(_node, tree))
        if not below:
            raise ValueError("tree must have a class below every node, got an empty one; leave it out")
        return below
    if not isinstance(tree, str | int):
        raise ValueError(
            f"tree must be nested mappings and sequences around class names, got {type(tree).__name__}; "
            "for example {'land': ['horse', 'zebra'], 'sea': ['whale', 'shark']}"
        )
    return str(tree)


def _leaves(node: Node) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for child in node:
            yield from _leaves(child)


def _class_names(root: Node, classes: Sequence[object] | None) -> tuple[str, ...]:
    """Return the names of the leaves, in the given order."""
    leaves = check_names(list(_leaves(root)))
    names = leaves if classes is None else check_names(classes)
    if odd := sorted(set(names) ^ set(leaves)):
        where = "no leaf" if odd[0] in names else "left out"
        raise ValueError(
            f"classes must be the leaves of the tree, got {odd[0]!r}, which is {where}; give each leaf once"
        )
    return names


def _set_heights(node: Node, place: Mapping[str, int], heights: np.ndarray[Any, Any]) -> int:
    """Set `heights` of the pairs of leaves whose common ancestors are below a node; return its height."""
    if isinstance(node, str):
        return 0
    height = 1 + max(_set_heights(child, place, heights) for child in node)
    groups = [[place[name] for name in _leaves(child)] for child in node]
    for k, group in enumerate(groups):
        others = [other for j, each in enumerate(groups) if j != k for other in each]
        heights[np.ix_(group, others)] = height
    return height
