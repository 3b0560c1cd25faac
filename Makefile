# orbit_fdw: tables in RocksDB inside PostgreSQL.  See README.md.
#
#   make deps         install what building and testing needs (Debian packages)
#   make, make install
#   make quickstart   a server of its own in ./orbit_data with the extension
#   make stop         stop that server; make clean-data: delete it (asks first)
#   make lint         layering, formatting, links
#   make failover-test  three servers under Patroni (Debian packages patroni, etcd-server)
#   make test         every test; `make test SUITES="regress tap"` some of them
#   make fault-test   those that need a small file system of their own; as root
#   make bench        orbit beside heap; make bench QUICK=1: in ten minutes (bench/README.md)
#   make unit-asan    the unit tests under the compiler's sanitizers
#   make check-upstream  PostgreSQL's own suites on orbit tables (upstream/README.md);
#                     check-upstream-standby, check-upstream-tools: more with its regression suite
#   make check-planner  estimates, plans and times of TPC-H's queries beside heap, with the installed
#                     release build; QUICK=1: small, without times (bench/README.md)
MODULE_big = orbit_fdw
EXTENSION = orbit_fdw
DATA = orbit_fdw--1.0.sql
PGFILEDESC = "orbit_fdw - tables in RocksDB"

SRCS_C = orbit_fdw.c $(sort $(wildcard src/*/*.c))
SRCS_CXX = $(sort $(wildcard src/*/*.cpp))
HDRS = $(wildcard src/*/*.h)
OBJS = $(SRCS_C:.c=.o) $(SRCS_CXX:.cpp=.o)

PG_CPPFLAGS = -I$(CURDIR)/src
PG_CFLAGS = -std=gnu11
PG_CXXFLAGS = -std=c++17
SHLIB_LINK = -lrocksdb -llz4 -lstdc++

WARNINGS_C = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-clobbered -Werror
WARNINGS_CXX = -Wall -Wextra -Wno-unused-parameter -Werror

# make ORBIT_DEV=1: assertions, every warning an error (what tests build)
ifdef ORBIT_DEV
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING=1 -DORBIT_DEV=1
ORBIT_WERROR = 1
endif
# make ORBIT_WERROR=1: the release build, with every warning an error
ifdef ORBIT_WERROR
PG_CFLAGS += $(WARNINGS_C)
PG_CXXFLAGS += $(WARNINGS_CXX)
endif

# Goals that need no compiler and no server headers yet.
TOOL_GOALS = deps quickstart stop clean-data lint test bench fault-test unit-asan failover-test \
	check-upstream check-upstream-standby check-upstream-tools check-planner
ifneq ($(if $(MAKECMDGOALS),$(filter-out $(TOOL_GOALS),$(MAKECMDGOALS)),all),)

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
ifeq ($(wildcard $(PG_CONFIG)),)
$(error $(PG_CONFIG) is missing: run `make deps` (package postgresql-server-dev-15))
endif
ifneq ($(firstword $(subst ., ,$(lastword $(filter 15.%,$(shell $(PG_CONFIG) --version))))),15)
$(error $(PG_CONFIG) is of $(shell $(PG_CONFIG) --version): orbit_fdw needs PostgreSQL 15)
endif
override with_llvm = no
EXTRA_CLEAN = build/flavor build/unit
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(HDRS) Makefile build/flavor

# Objects of a development and of a release build never mix.
FLAVOR = dev=$(ORBIT_DEV) werror=$(ORBIT_WERROR) $(COPT) $(PG_CONFIG)
build/flavor: FORCE
	@mkdir -p build
	@echo '$(FLAVOR)' | cmp -s - $@ || echo '$(FLAVOR)' > $@
FORCE:
.PHONY: FORCE

endif

.PHONY: $(TOOL_GOALS)
deps:
	@scripts/install-deps build server test
quickstart:
	@scripts/quickstart
stop:
	@scripts/server stop
clean-data:
	@scripts/server clean-data
lint:
	@scripts/lint
failover-test:
	@scripts/failover-test
test:
	@scripts/run-tests $(SUITES)
bench:
	@bench/run.sh
fault-test:
	@scripts/fault-test
unit-asan:
	@ORBIT_SANITIZE=address,undefined scripts/unit-tests
check-upstream:
	@upstream/check
check-upstream-standby:
	@upstream/standby
check-upstream-tools:
	@upstream/tools
check-planner:
	@bench/tpch/run.sh
