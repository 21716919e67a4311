from tests.data.conftest import cache_home

__all__ = ["cache_home"]
