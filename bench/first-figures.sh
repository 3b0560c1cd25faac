#!/bin/bash
# Orbit beside heap in one run: loading, scans, point reads, pgbench, durable
# inserts, updates, bytes on disk and in the WAL.
#
# The two take turns in every round, so that what else the machine does hits
# both.  What takes seconds is measured ROUNDS times and the median printed; pgbench's
# TPC-B runs once for each.  Every figure is of a server with fsync on.
#
#   SCALE=30      pgbench's scale: 100,000 rows each
#   ROUNDS=3      rounds of short measurements
#   TPCB=30       seconds of TPC-B for each;  SHORT=5: of the other pgbench runs
#   ONLY="..."    some of: load size scan point select tpcb hot insert update
#   CONF="..."    more settings, one a line
#   KEEP=1        keep the scratch directory
set -u
. "$(dirname "$0")/server.sh"

SCALE=${SCALE:-30}
ROUNDS=${ROUNDS:-3}
TPCB=${TPCB:-30}
SHORT=${SHORT:-5}
ONLY=${ONLY:-load size scan point select tpcb hot insert update}
LOOKUPS=300000
ROWS=$((SCALE * 100000))
AMS="heap orbit"

# Milliseconds of the last statement; those before it warm up and set.
timed()
{
	local db=$1 args=()

	shift
	for statement; do args+=(-c "$statement"); done
	as_owner "$BINDIR/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$db" -c '\timing on' "${args[@]}" |
		sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p' | tail -1
}

# pgbench's transactions a second.
bench()
{
	local db=$1

	shift
	as_owner "$BINDIR/pgbench" -n -d "$db" "$@" 2>"$SCRATCH/pgbench.err" |
		sed -nE 's/^tps = ([0-9.]+).*/\1/p'
}

# ---- figures ----------------------------------------------------------------

note()							# note NAME AM VALUE
{
	echo "$2 $3" >>"$SCRATCH/figure.$1"
	echo "  $1 $2 $3" >&2
}

median()						# median NAME AM
{
	sed -n "s/^$2 //p" "$SCRATCH/figure.$1" 2>/dev/null | sort -g |
		awk '{v[NR] = $1} END {if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

# row NAME UNIT BETTER TEXT [DIVISOR]: a line of the table; above 1 orbit is better.
row()
{
	local h o

	h=$(median "$1" heap)
	o=$(median "$1" orbit)
	[ -n "$h" ] && [ -n "$o" ] || return
	awk -v h="$h" -v o="$o" -v unit="$2" -v better="$3" -v text="$4" -v d="${5:-1}" 'BEGIN {
		h /= d; o /= d
		r = better == "more" ? o / h : h / o
		f = h < 100 && o < 100 ? "%.2f" : "%.0f"
		printf "| %s | " f " %s | " f " %s | %.2f |\n", text, h, unit, o, unit, r }'
}

wanted()
{
	[[ " $ONLY " == *" $1 "* ]]
}

rounds()						# rounds FUNCTION: in turn
{
	for ((round = 1; round <= ROUNDS; round++)); do
		for am in $AMS; do
			"$1" "$am" "$round"
		done
	done
}

settle()						# all of it on disk, nothing left to do
{
	sql_in "$1" "SELECT orbit_flush()" "CHECKPOINT" >/dev/null
}

# ---- the measurements --------------------------------------------------------

prepare()
{
	local am

	for am in $AMS; do
		sql_in postgres "CREATE DATABASE $am"
		sql_in "$am" "CREATE EXTENSION orbit_fdw" \
			"ALTER DATABASE $am SET default_table_access_method = $am"
		as_owner "$BINDIR/pgbench" -i -q -s "$SCALE" --foreign-keys "$am" >/dev/null 2>&1 ||
			die "pgbench -i failed for $am"
		sql_in "$am" "CREATE TABLE copied (LIKE pgbench_accounts INCLUDING ALL)" \
			"CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body text)" \
			"ANALYZE"
	done
	sql_in heap "COPY pgbench_accounts TO '$SCRATCH/accounts'"
	settle orbit
}

table_bytes()
{
	if [ "$1" = heap ]; then
		sql_in heap "SELECT pg_table_size('copied')"
	else
		sql_in orbit "SELECT sum(bytes) FROM orbit_column_families()"
	fi
}

# In orbit's case bytes are those by which all of RocksDB grew.
load()
{
	local am=$1 before=0 lsn

	sql_in "$am" "TRUNCATE copied"
	settle "$am"
	[ "$am" = orbit ] && before=$(table_bytes orbit)
	lsn=$(sql_in "$am" "SELECT pg_current_wal_insert_lsn()")
	note load "$am" "$(timed "$am" "COPY copied FROM '$SCRATCH/accounts'")"
	note wal "$am" "$(sql_in "$am" "SELECT pg_current_wal_insert_lsn() - '$lsn'")"
	settle "$am"
	note size "$am" $(($(table_bytes "$am") - before))
}

scan()
{
	local am=$1 set="SET max_parallel_workers_per_gather = 0"

	note sum "$am" "$(timed "$am" "$set" "SELECT sum(abalance) FROM pgbench_accounts" \
		"SELECT sum(abalance) FROM pgbench_accounts")"
	note count "$am" "$(timed "$am" "$set" "SELECT count(*) FROM pgbench_accounts" \
		"SELECT count(*) FROM pgbench_accounts")"
}

lookups()						# lookups TABLE COLUMN KEY: KEY is an expression of i
{
	echo "DO \$\$ DECLARE b int; BEGIN FOR i IN 1..$LOOKUPS LOOP
		SELECT $2 INTO STRICT b FROM $1 WHERE $3; END LOOP; END \$\$"
}

point()
{
	local am=$1

	note first "$am" "$(timed "$am" "SELECT abalance FROM pgbench_accounts WHERE aid = 1")"
	note point "$am" "$(timed "$am" \
		"$(lookups pgbench_accounts abalance "aid = 1 + (i::bigint * 104729) % $ROWS")")"
	note ordered "$am" "$(timed "$am" "$(lookups pgbench_accounts abalance "aid = 1 + i % $ROWS")")"
}

select_only()
{
	note select1 "$1" "$(bench "$1" -S -M prepared -c 1 -T "$SHORT")"
	note select4 "$1" "$(bench "$1" -S -M prepared -c 4 -j 2 -T "$SHORT")"
}

tpcb()
{
	settle "$1"
	note tpcb "$1" "$(bench "$1" -M prepared -c 16 -j 2 -T "$TPCB")"
}

# A row that TPC-B has changed over and over.
hot()
{
	settle "$1"
	note hot "$1" "$(timed "$1" "$(lookups pgbench_branches bbalance "bid = 1")")"
}

insert()
{
	echo "INSERT INTO events (body) VALUES ('the quick brown fox jumps over the lazy dog');" >"$SCRATCH/insert.sql"
	note insert "$1" "$(bench "$1" -M prepared -c 16 -j 2 -T "$SHORT" -f "$SCRATCH/insert.sql")"
}

update()
{
	settle "$1"
	note update "$1" "$(timed "$1" "UPDATE copied SET abalance = abalance + 1 WHERE aid % 10 = $2")"
}

# ---- the run ------------------------------------------------------------------

make_server data 'shared_buffers = 1GB' 'max_wal_size = 8GB' 'checkpoint_timeout = 15min'
start data
prepare
wanted load || wanted size || wanted update && rounds load
wanted scan && rounds scan
wanted point && rounds point
wanted select && rounds select_only
wanted insert && rounds insert
wanted update && rounds update
if wanted tpcb; then for am in $AMS; do tpcb "$am"; done; fi
wanted hot && rounds hot

cat <<END

| $ROWS rows | heap | orbit | orbit is better by |
|---|---|---|---|
END
row load s less "COPY into a table with a primary key" 1000
row wal "bytes/row" less "WAL of that COPY, index included" "$ROWS"
row size MB less "bytes on disk of the table" 1000000
row sum ms less "sum(abalance), one process"
row count ms less "count(*), one process"
row point "us" less "a primary-key lookup in PL/pgSQL, spread keys" $((LOOKUPS / 1000))
row ordered "us" less "the same, ascending keys" $((LOOKUPS / 1000))
row first ms less "first row read by a connection"
row select1 tps more "pgbench -S -M prepared, 1 client"
row select4 tps more "pgbench -S -M prepared, 4 clients"
row tpcb tps more "pgbench TPC-B with foreign keys, 16 clients, $TPCB s"
row hot "us" less "lookup of a branch after that" $((LOOKUPS / 1000))
row insert tps more "durable single-row inserts, 16 clients"
row update s less "UPDATE of a tenth of the rows, on every page" 1000

echo
echo "$(nproc) cores, $("$BINDIR/postgres" --version); settings that differ from initdb's, and orbit's:"
sql_in postgres "SELECT '  ' || name || ' = ' || current_setting(name) FROM pg_settings
	WHERE name LIKE 'orbit.%' OR name IN ('shared_buffers', 'fsync', 'synchronous_commit', 'full_page_writes',
		'max_wal_size', 'checkpoint_timeout', 'autovacuum') ORDER BY name"
