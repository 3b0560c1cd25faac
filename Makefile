# orbit_fdw: tables in RocksDB inside PostgreSQL.  See README.md.
MODULE_big = orbit_fdw
EXTENSION = orbit_fdw
DATA = orbit_fdw--1.0.sql
PGFILEDESC = "orbit_fdw - tables in RocksDB"

SRCS_C = orbit_fdw.c $(wildcard src/*/*.c)
SRCS_CXX = $(wildcard src/*/*.cpp)
HDRS = $(wildcard src/*/*.h)
OBJS = $(SRCS_C:.c=.o) $(SRCS_CXX:.cpp=.o)

PG_CPPFLAGS = -I$(CURDIR)/src
PG_CFLAGS = -std=gnu11
PG_CXXFLAGS = -std=c++17
SHLIB_LINK = -lrocksdb -lstdc++

# make ORBIT_DEV=1: assertions, every warning an error (what tests and CI build)
ifdef ORBIT_DEV
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING=1 -DORBIT_DEV=1
PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers -Wno-clobbered -Werror
PG_CXXFLAGS += -Wall -Wextra -Wno-unused-parameter -Werror
endif

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
with_llvm = no
include $(PGXS)
override with_llvm = no

$(OBJS): $(HDRS) Makefile
