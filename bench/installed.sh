# Sourced by the benchmarks: where PostgreSQL is (BINDIR, OWNER), and that a release build is installed.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
find_postgres

# A development build carries assertions: its figures would mean nothing.
LIBRARY=$("$PG_CONFIG" --pkglibdir)/orbit_fdw.so
[ -f "$LIBRARY" ] || die "orbit_fdw is not installed: run make install"
if nm -D --undefined-only "$LIBRARY" | grep -q ExceptionalCondition; then
	die "a development build is installed: run make install"
fi
