"""For all tests."""

import signal

# A shell that starts us in the background lets SIGINT be ignored, and children inherit that:
# the tests that press Ctrl-C on them would test the shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
