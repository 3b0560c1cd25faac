#!/bin/bash
# The planner on orbit tables beside heap: TPC-H's queries on data like TPC-H's, in two databases of one
# server.  Fails where results differ, where row estimates differ although ANALYZE has read every row, and where
# a query takes more than twice as long as on heap and not with another plan.
#
# Both have room for the data in memory: heap in shared_buffers, orbit in each backend's block cache.  A query is one process:
# a parallel query's workers begin with an empty block cache on orbit, and what they gain depends on what else the machine does.
# CONF="max_parallel_workers_per_gather = 2" and CONF="orbit.page_cache_size = '128MB'" measure it otherwise.
#
#   SCALE=0.1     TPC-H's scale factor; up to 0.45 ANALYZE can read every row
#   ROUNDS=5      sessions that run each query twice, on each in turn; the median of second times counts
#   QUICK=1       scale 0.02, no times
#   ONLY="1 9"    these queries
#   CONF="..."    more settings, one a line
#   KEEP=1        keep the scratch directory
set -u
. "$(dirname "$0")/../server.sh"

QUICK=${QUICK:-}
if [ -n "$QUICK" ]; then
	SCALE=${SCALE:-0.02} ROUNDS=0
fi
SCALE=${SCALE:-0.1}
ROUNDS=${ROUNDS:-5}
TABLES="region nation supplier part partsupp customer orders lineitem"
HERE=$TOP/bench/tpch
RESULTS=$TOP/build/tpch
PSQL=("$BINDIR/psql" -X -q -At -v ON_ERROR_STOP=1)

# A file of statements; the server's user need not be able to read it.
sql_file()						# sql_file DATABASE FILE [ARGUMENT...]
{
	local db=$1 file=$2

	shift 2
	as_owner "${PSQL[@]}" -d "$db" "$@" <"$HERE/$file" || die "$file failed"
}

# ANALYZE takes 300 rows for each unit of the highest target among a table's columns.  The comments, which
# no estimate here depends on but for one LIKE, have a target so high that every row is taken.
analyze()						# analyze DATABASE
{
	local column

	for column in region.r_comment nation.n_comment supplier.s_comment part.p_comment partsupp.ps_comment \
		customer.c_comment orders.o_comment lineitem.l_comment; do
		sql_in "$1" "ALTER TABLE ${column%.*} ALTER ${column#*.} SET STATISTICS 10000"
	done
	sql_in "$1" "VACUUM ANALYZE"
}

# Heap fills gaps of pages with rows that come later.  The correlation of columns with the order of rows can only
# be the same where orbit gets the rows in the order in which they lie in heap.
copy_out()
{
	local table

	for table in $TABLES; do
		sql_in heap "COPY $table TO '$SCRATCH/rows/$table'"
	done
}

load()							# load DATABASE
{
	local table

	sql_file "$1" tables.sql
	for table in $TABLES; do
		sql_in "$1" "COPY $table FROM '$SCRATCH/rows/$table'"
	done
	[ "$1" = orbit ] || copy_out
	sql_file "$1" keys.sql
	analyze "$1"
	sql_in "$1" "SELECT orbit_flush()" CHECKPOINT >/dev/null
}

# As the server's user, in a place that it may read.
compare()						# compare STAGE [VARIABLE=VALUE...]
{
	local results=$SCRATCH/results.$1

	shift
	as_owner mkdir "$results" || die "no scratch directory"
	as_owner env PGOPTIONS= ONLY="${ONLY:-}" FULL="$FULL" "VARIABLES=fraction=$FRACTION quantity=$QUANTITY" "$@" \
		"$SCRATCH/compare" "$SCRATCH/queries.sql" "$results" "${PSQL[@]}" || failed=1
	cp "$results"/*.heap "$results"/*.orbit "$RESULTS/" 2>/dev/null
}

make_server data 'shared_buffers = 1GB' "orbit.page_cache_size = '1GB'" 'max_parallel_workers_per_gather = 0' \
	'max_wal_size = 8GB' 'checkpoint_timeout = 15min' 'autovacuum = off' 'synchronize_seqscans = off'
start data
for am in heap orbit; do
	sql_in postgres "CREATE DATABASE $am"
	sql_in "$am" "CREATE EXTENSION orbit_fdw" "ALTER DATABASE $am SET default_table_access_method = $am"
done
as_owner mkdir "$SCRATCH/rows"
export PGOPTIONS='-c client_min_messages=warning'
sql_file heap generate.sql -v dir="$SCRATCH/rows" -v scale="$SCALE"
load heap
load orbit
rm -rf "$SCRATCH/rows"

mkdir -p "$RESULTS" && cp "$HERE/compare" "$HERE/queries.sql" "$SCRATCH/" &&
	chmod 755 "$SCRATCH/compare" && chmod 644 "$SCRATCH/queries.sql" || die "cannot write in $RESULTS or $SCRATCH"
FULL=$(sql_in heap "SELECT (count(*) <= 2900000)::int FROM lineitem")
FRACTION=$(awk -v s="$SCALE" 'BEGIN {printf "%.10f", 0.0001 / s}')
QUANTITY=$(awk -v s="$SCALE" 'BEGIN {print s < 0.1 ? 260 : 300}')
failed=0

echo "Scale $SCALE, $(nproc) cores, $("$BINDIR/postgres" --version); settings that differ from initdb's, and orbit's:"
sql_in postgres "SELECT '  ' || name || ' = ' || current_setting(name) FROM pg_settings
	WHERE name LIKE 'orbit.%' OR sourcefile IS NOT NULL AND
		name ~ '^(shared_buffers|max_parallel_workers_per_gather|max_wal_size|checkpoint_timeout|autovacuum|synchronize_seqscans)$' ORDER BY name"
[ "$FULL" = 1 ] || echo "ANALYZE has taken a sample: estimates are compared, and not judged"
compare loaded ROUNDS="$ROUNDS"

echo "After changes (changes.sql) and VACUUM ANALYZE; the order of rows is not the same any more: no correlations, no times"
for am in heap orbit; do
	sql_file "$am" changes.sql
	sql_in "$am" "VACUUM ANALYZE"
done
compare changed ROUNDS=0 CORRELATION=0
[ $failed -eq 0 ] || die "the planner's estimates or plans: see above"
