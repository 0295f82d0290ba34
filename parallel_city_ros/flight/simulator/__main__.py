"""python -m parallel_city_ros.flight.simulator: simulated PX4 drones on UDP ports."""

import signal
import sys

if __name__ == "__main__":
    # Until there is something to end in order, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from parallel_city_ros.flight.simulator.program import main
    sys.exit(main())
