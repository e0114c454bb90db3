"""scikit-learn's base classes, with the types that it does not declare."""

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:

    class BaseEstimator:
        """`sklearn.base.BaseEstimator`."""

        n_features_in_: int

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Return the parameters."""
            ...

        def set_params(self, **params: Any) -> Self:
            """Set parameters."""
            ...

        def get_metadata_routing(self) -> Any:
            """Return which methods ask for sample weights."""
            ...

        def set_fit_request(self, *, sample_weight: bool | str | None = None) -> Self:
            """Set whether a meta-estimator passes sample weights to `fit`."""
            ...

        def __sklearn_tags__(self) -> Any: ...

    class ClassifierMixin:
        """`sklearn.base.ClassifierMixin`."""

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
            """Return the accuracy."""
            ...

        def set_score_request(self, *, sample_weight: bool | str | None = None) -> Self:
            """Set whether a meta-estimator passes sample weights to `score`."""
            ...

        def __sklearn_tags__(self) -> Any: ...

    class MetaEstimatorMixin:
        """`sklearn.base.MetaEstimatorMixin`."""

else:
    from sklearn.base import BaseEstimator as BaseEstimator
    from sklearn.base import ClassifierMixin as ClassifierMixin
    from sklearn.base import MetaEstimatorMixin as MetaEstimatorMixin
