"""The only place that imports rclpy: four nodes, conversions, parameters, QoS."""

from parallel_city_ros._environment import prepare, require_interfaces

# Before rclpy: its libraries are looked for when it is imported.
prepare()
require_interfaces()
