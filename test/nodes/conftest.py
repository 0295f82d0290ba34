"""The real nodes in processes of their own and in a ROS domain of their own."""

import os

import pytest
from domain_coordinator import domain_id

from parallel_city_ros.city.osm import helsinki_file
from parallel_city_ros.cli.processes import Supervisor
from parallel_city_ros.nodes.client import CityClient

RESOLUTION = 4.0    # coarse: what is tested is the graph, not the map


class System:
    """Starts, kills and watches nodes; `client` is in the same domain."""

    def __init__(self, processes, client, state_folder):
        self.processes, self.client, self._state_folder = processes, client, state_folder

    def start_twin(self, **parameters):
        self.processes.start_node("twin_map_server", {
            "city_file": str(helsinki_file()), "resolution": RESOLUTION,
            "state_folder": str(self._state_folder)} | parameters)

    def kill(self, name):
        """SIGKILL; the process is forgotten."""
        process = self.processes._running.pop(name)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    with domain_id() as domain:
        before = os.environ.get("ROS_DOMAIN_ID")
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        try:
            logs = tmp_path_factory.mktemp("logs")
            with Supervisor(logs, {}) as processes, CityClient() as client:
                yield System(processes, client, tmp_path_factory.mktemp("state"))
        finally:
            if before is None:
                del os.environ["ROS_DOMAIN_ID"]
            else:
                os.environ["ROS_DOMAIN_ID"] = before
