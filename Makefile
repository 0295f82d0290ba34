# make demo · make test · make bench · make lint: each does its own set-up, once, in .venv.

# Which Python .venv is made with; 3.10 to 3.13.
PYTHON ?= python3
# Handed to the program: make demo ARGS="--help"
ARGS ?=

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin

.PHONY: help setup doctor demo test lint bench clean distclean
.NOTPARALLEL:

help:
	@echo "make setup      .venv with everything: packages, ROS interfaces, parallel_city_ros"
	@echo "make doctor     what this machine lacks, and how to get it"
	@echo "make demo       the loop once, from city to flown patrol;  ARGS=... to the program"
	@echo "make test       all tests;  ARGS='-k planner' to pytest"
	@echo "make lint       ruff"
	@echo "make bench      measure time and quality;  ARGS=... to the program"
	@echo "make clean      remove build and cache folders, keep .venv and out/"
	@echo "make distclean  remove .venv too"
	@echo "PYTHON=python3.12 chooses the Python of .venv."

setup:
	@PYTHON="$(PYTHON)" tools/setup.sh

# What the programs need to find packages and libraries, here and in their own children.
RUN := env -u _ROS_WHEELS_BOOTSTRAP_COMPLETE \
	AMENT_PREFIX_PATH="$(VENV)$${AMENT_PREFIX_PATH:+:$$AMENT_PREFIX_PATH}" \
	LD_LIBRARY_PATH="$(VENV)/lib$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}"

# Changes nothing; before there is a .venv, what a bare Python can tell.
doctor:
	@if "$(BIN)/python" -c 'import click, rich, parallel_city_ros' 2>/dev/null; then \
		$(RUN) "$(BIN)/parallel-city" doctor $(ARGS); \
	else "$(PYTHON)" parallel_city_ros/_system.py --report; fi

demo: setup
	@$(RUN) "$(BIN)/parallel-city" demo $(ARGS)

# The plugin of dash, which open3d brings, costs a second and a warning. One process more than
# there are cores: flights wait more than they work.
test: setup
	@$(RUN) "$(BIN)/python" -m pytest -q -p no:dash -n "$$(($$(nproc) + 1))" --dist loadfile --no-loadscope-reorder test $(ARGS)

lint: setup
	@"$(BIN)/ruff" check . $(ARGS)

bench: setup
	@$(RUN) "$(BIN)/python" benchmarks/run.py $(ARGS)
	@$(RUN) "$(BIN)/python" benchmarks/city.py $(ARGS)
	@$(RUN) "$(BIN)/python" benchmarks/flight.py $(ARGS)

clean:
	rm -rf build install log dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f .venv/stamps/loops

distclean: clean
	rm -rf .venv
