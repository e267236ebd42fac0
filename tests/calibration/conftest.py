"""Fixtures of the tests of INT8: those of evaluation."""

from tests.evaluation.conftest import bundle, camvid

__all__ = ["bundle", "camvid"]
