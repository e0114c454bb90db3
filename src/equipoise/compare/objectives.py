from dataclasses import dataclass
from equipoise.compare import spec


@dataclass(frozen=True)
class Candidate:
    name: str
    loss: object
    schedules: object
    spelled: object = None
    stable: bool = True

    def objective(self, steps):
        return self.spelled.objective(steps)

    @property
    def text(self): return self.spelled.text
    def same(self, other):
        return self.spelled == other.spelled

    def code(self, matrices):
        return spec.paste(self.name, lambda n: matrices[n])


def read_objective(given, matrices, name=None):
    from equipoise import spelling

    text = spelling.normalise(given if isinstance(given, str) else spelling.spell(given))
    s = spec.read(text, matrices)
    return Candidate(name or text, s.loss, s.schedules, s)
