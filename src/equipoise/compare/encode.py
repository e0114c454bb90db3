from dataclasses import replace
from equipoise.compare.data import encode


class Encoder:
    def __init__(self, dataset, rows):
        self.dataset, self.rows = dataset, rows

    def transform(self, features):
        return encode(replace(self.dataset, features=features), self.rows)
