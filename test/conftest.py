"""For all tests."""

import signal

import pytest

# A shell that starts us in the background lets SIGINT be ignored, and children inherit that:
# the tests that press Ctrl-C on them would test the shell.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Their tests start nodes, simulated drones and whole programs.
WITH_PROCESSES = ("cli", "flight", "launch", "nodes")


def pytest_collection_modifyitems(config, items):
    """What runs at once where pytest-xdist is told --dist loadgroup: files, but of those that
    start processes one after the other, or each would be the load that another stumbles over."""
    for item in items:
        folder, *_ = item.path.relative_to(config.rootpath / "test").parts
        group = "processes" if folder in WITH_PROCESSES else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
