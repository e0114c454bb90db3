"""Matrices and nested classes from a tree, such as a taxonomy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.targets.build import softmax, split_groups
from equipoise.targets.matrix import Kind, Matrix, check_names

ROOT = "the root of everything"  # above the top names of a nested mapping; never shown


def from_tree(
    tree: Any, kind: Kind = "costs", *, beta: float = 10.0, classes: Sequence[object] | None = None
) -> Matrix:
    r"""Return a matrix from a tree whose leaves are the classes.

    With d the height of the lowest common ancestor of two classes, that is the number of steps from it down
    to its deepest leaf, and h the height of the tree,

    .. math:: C_{yk} = d(y, k), \qquad S_{yk} \propto e^{-\beta\, d(y, k) / h}.

    Args:
        tree: A networkx DiGraph or its edges, from parent to child; or a nested mapping whose innermost
            values are sequences of classes, `{"land": ["horse", "zebra"], "sea": ["whale", "shark"]}`.
        kind: "costs" or "similarity".
        beta: At least 0; 30 keeps nearly everything on the class itself, 4 spreads far.
        classes: Order of the classes; None for that of the tree.

    Raises:
        ImportError: If networkx is not installed.
        ValueError: If it is no tree, if classes are not its leaves, or beta is out of range.

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
    graph, root, names = _tree(tree, classes)
    heights = _heights(graph, root)
    import networkx as nx

    place = {name: k for k, name in enumerate(names)}
    apart = np.zeros((len(names), len(names)))
    for (one, two), ancestor in nx.tree_all_pairs_lowest_common_ancestor(graph, root):
        if one in place and two in place and one != two:
            apart[place[one], place[two]] = apart[place[two], place[one]] = heights[ancestor]
    if kind != "similarity":
        return Matrix(apart, kind, names)
    return Matrix(softmax(-beta * apart / max(heights[root], 1)), kind, names)


def nested(tree: Any, classes: Sequence[object] | None = None) -> Any:
    """Return a tree as `HierarchicalCrossEntropy` takes it: tuples in tuples around class indices.

    Args:
        tree: As for `from_tree`, or groups, "horse, zebra | whale, shark".
        classes: What the indices count, every leaf once; None for the order of the leaves in the tree.

    Raises:
        ImportError: If networkx is not installed.
        ValueError: If it is no tree, or classes are not its leaves.

    Example:
        >>> nested("horse, zebra | whale, shark", ["horse", "shark", "whale", "zebra"])
        ((0, 3), (2, 1))
    """
    if isinstance(tree, str):
        tree = {f"group {k} of {tree}": group for k, group in enumerate(split_groups(tree))}
    graph, root, names = _tree(tree, classes)
    place = {name: k for k, name in enumerate(names)}

    def below(node: str) -> Any:
        children = list(graph.successors(node))
        return tuple(below(child) for child in children) if children else place[node]

    found = below(root)
    return found if isinstance(found, tuple) else (found,)


def _tree(tree: Any, classes: Sequence[object] | None) -> tuple[Any, str, tuple[str, ...]]:
    """A checked graph of names, its root and its leaves in the order asked for."""
    try:
        import networkx as nx
    except ImportError as error:
        raise ImportError("targets from a tree need networkx; pip install 'equipoise[targets]'") from error
    graph: Any = nx.DiGraph()
    try:
        edges = list(_nested_edges(tree, ROOT)) if isinstance(tree, Mapping) else list(_edges(tree))
        graph.add_edges_from((str(parent), str(child)) for parent, child in edges)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"tree must be a DiGraph, pairs (parent, child) or a nested mapping, got {type(tree).__name__}; "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not edges:
        raise ValueError(f"tree must have edges from parent to child, got {tree!r}; name its classes")
    # a class under several parents would have several ancestors, and its cost would depend on the one taken
    many = [node for node in graph if graph.in_degree(node) > 1 or graph.has_edge(node, node)]
    if many:
        raise ValueError(
            f"tree must give each node one parent, got more for {many[0]!r}; edges are (parent, child)"
        )
    roots = [node for node in graph if graph.in_degree(node) == 0]
    if not nx.is_arborescence(graph):
        raise ValueError(
            f"tree must have one root and no circle, got {len(roots)} roots ({', '.join(roots[:3])}); "
            "join them under one parent"
        )
    leaves = [node for node in nx.dfs_preorder_nodes(graph, roots[0]) if not graph.out_degree(node)]
    names = check_names(leaves if classes is None else classes)
    if set(names) != set(leaves):
        odd = sorted(set(names) ^ set(leaves))[0]
        where = "no leaf" if odd in names else "not asked for"
        raise ValueError(
            f"classes must be the leaves of the tree, got {odd!r}, which is {where}; give each leaf once"
        )
    return graph, roots[0], names


def _nested_edges(tree: Any, parent: str) -> Iterator[tuple[Any, Any]]:
    """Edges of a nested mapping; the names on the way down make an inner node, so none meets a class."""
    if isinstance(tree, Mapping):
        for name, below in tree.items():
            node = f"{parent} / {name}"
            yield parent, node
            yield from _nested_edges(below, node)
    elif isinstance(tree, str):
        yield parent, tree
    else:
        for child in tree:
            yield from ((parent, child),) if not isinstance(child, Mapping) else _nested_edges(child, parent)


def _edges(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.edges() if hasattr(tree, "edges") else tree
    if isinstance(pairs, str):
        raise ValueError("groups are for from_groups")
    for pair in pairs:
        parent, child = pair
        yield parent, child


def _heights(graph: Any, root: str) -> dict[str, int]:
    import networkx as nx

    found: dict[str, int] = {}
    for node in nx.dfs_postorder_nodes(graph, root):
        found[node] = max((found[child] + 1 for child in graph.successors(node)), default=0)
    return found
