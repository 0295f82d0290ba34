"""For all tests."""

import signal

import pytest

# A shell that starts us in the background lets SIGINT be ignored, and children inherit that:
# the tests that press Ctrl-C on them would test the shell.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Their tests start nodes, simulated drones and whole programs: mostly they wait.
LANES = {"flight": "flights", "cli": "graph", "launch": "graph", "nodes": "graph"}
COMPUTE = ("test_bench.py", "test_city.py")     # of cli


@pytest.hookimpl(tryfirst=True)     # before xdist looks at the groups
def pytest_collection_modifyitems(config, items):
    """What runs at once where pytest-xdist is told --dist loadgroup: files, but of those that
    start processes one after the other, or each would be the load that another stumbles over."""
    for item in items:
        folder = item.path.relative_to(config.rootpath / "test").parts[0]
        alone = folder not in LANES or item.path.name in COMPUTE
        group = str(item.path) if alone else LANES[folder]
        item.add_marker(pytest.mark.xdist_group(group))
