"""Groups, trees, costs and similarities of a few classes."""

import numpy as np

GROUPS = "horse, zebra | whale, shark"
TREE = {"land": ["horse", "zebra"], "sea": ["whale", "shark"]}
LISTS = [["horse", "zebra"], ["whale", "shark"]]
ALIKE = np.array([[0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0.1, 0.9]])
COSTS = np.array([[0, 1, 9], [2, 0, 9], [3, 4, 0.0]])

ANIMALS = ("horse", "shark", "whale", "zebra")  # sorted
ANIMAL_COSTS = np.array([[0, 9, 8, 1], [7, 0, 2, 7], [6, 3, 0, 6], [1, 9, 8, 0]], dtype=float)
ANIMAL_SIMILARITY = np.array([[0.8, 0, 0, 0.2], [0, 0.9, 0.1, 0], [0, 0.1, 0.9, 0], [0.3, 0, 0, 0.7]])
