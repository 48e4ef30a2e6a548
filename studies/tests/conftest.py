"""What the tests of the library begin with: threads, and examples without deadlines."""

import tests.conftest  # noqa: F401
