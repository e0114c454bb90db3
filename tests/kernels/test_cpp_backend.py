"""The compiled kernel gives the states and gradients of blocks as the reference does."""

import pytest

from equipoise.kernels import cpu
from equipoise.kernels.block import CppBackend
from support.backend_checks import BackendTests
from support.fused_checks import FusedTests


@pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled when the package was installed")
class TestCppBackend(BackendTests, FusedTests):
    backend = CppBackend()
    tables = 1
