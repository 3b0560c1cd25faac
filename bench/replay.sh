#!/bin/bash
# Replay of the WAL of orbit tables beside that of heap tables: what a standby, or a
# recovery from a base backup, has to do.
#
# Each load runs once for each access method, on a server whose data directory was
# copied before; the WAL that it wrote is then replayed by archive recovery of a fresh copy,
# ROUNDS times, heap and orbit in turn.  The time is the one that PostgreSQL reports as
# elapsed between the begin and the end of redo; it includes that orbit's write buffers
# are flushed to RocksDB at the end.  fsync is on.
#
#   ROWS=500000   rows of the table, and changes of each load
#   ROUNDS=3      replays of each
#   ONLY="..."    some of: copy insert update index delete
#   CONF="..."    more settings, one a line
#   KEEP=1        keep the scratch directory
set -u
. "$(dirname "$0")/server.sh"

ROWS=${ROWS:-500000}
ROUNDS=${ROUNDS:-3}
ONLY=${ONLY:-copy insert update index delete}
AMS="heap orbit"

# ---- loads ----------------------------------------------------------------------

# Transactions of one row, as many clients make them; a commit that is not waited for
# writes the same WAL.
one_by_one()					# one_by_one STATEMENT: of i
{
	sql "SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan" "DO \$\$ BEGIN
		FOR i IN 1 .. $ROWS LOOP $1; COMMIT; END LOOP; END \$\$"
}

run_load()						# run_load LOAD TABLE
{
	local spread="1 + (i::bigint * 104729) % $ROWS"

	case $1 in
		copy) sql "COPY $2 (id, k, v, body) FROM '$SCRATCH/rows'" ;;
		insert) one_by_one "INSERT INTO $2 VALUES ($ROWS + i, i % 1000, 0, 'the quick brown fox jumps over the lazy dog')" ;;
		update) one_by_one "UPDATE $2 SET v = v + i WHERE id = $spread" ;;
		index) one_by_one "UPDATE $2 SET k = k + 1 WHERE id = $spread" ;;
		delete) sql "DELETE FROM $2 WHERE id % 2 = 0" ;;
	esac
}

# All of it on disk, nothing left to do.
settle()
{
	sql "SELECT orbit_flush()" "CHECKPOINT" >/dev/null
}

# Leaves LOAD.AM.base, the data directory before the load, and LOAD.AM.wal.
generate()						# generate LOAD AM
{
	local base=$1.$2 lsn

	settle
	stop main fast
	as_owner cp -a "$SCRATCH/main" "$SCRATCH/$base.base"
	as_owner rm -rf "$SCRATCH/$base.base/pg_wal"
	start main
	lsn=$(sql "SELECT pg_current_wal_insert_lsn()")
	run_load "$1" "t_$2"
	note "wal.$1" "$2" "$(sql "SELECT pg_current_wal_insert_lsn() - '$lsn'")"
	sql "SELECT pg_switch_wal()" >/dev/null
	stop main fast
	as_owner cp -a "$SCRATCH/main/pg_wal" "$SCRATCH/$base.wal"
	start main
}

# ---- replay ------------------------------------------------------------------------

replay()						# replay LOAD AM
{
	local base=$SCRATCH/$1.$2 seconds

	as_owner cp -a "$base.base" "$SCRATCH/copy"
	as_owner cp -a "$base.wal" "$SCRATCH/copy/pg_wal"
	as_owner touch "$SCRATCH/copy/recovery.signal"
	sync
	as_owner rm -f "$SCRATCH/copy.log"
	start copy
	until [ "$(sql "SELECT pg_is_in_recovery()")" = f ]; do sleep 0.1; done
	seconds=$(sed -nE 's/.*redo done at .*elapsed: ([0-9.]+) s$/\1/p' "$SCRATCH/copy.log")
	[ -n "$seconds" ] || die "nothing was replayed: $(tail -1 "$SCRATCH/copy.log")"
	note "replay.$1" "$2" "$seconds"
	[ "$(sql "SELECT count(*), sum(id), sum(k), sum(v) FROM t_$2")" = "$(cat "$base.sum")" ] ||
		die "the replayed table t_$2 differs"
	stop copy immediate
	as_owner rm -rf "$SCRATCH/copy"
}

# ---- figures ------------------------------------------------------------------------

note()							# note NAME AM VALUE
{
	echo "$2 $3" >>"$SCRATCH/figure.$1"
	echo "  $1 $2 $3" >&2
}

median()						# median NAME AM
{
	sed -n "s/^$2 //p" "$SCRATCH/figure.$1" | sort -g |
		awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'
}

row()							# row LOAD TEXT ROWS
{
	[[ " $ONLY " == *" $1 "* ]] || return
	awk -v hw="$(median "wal.$1" heap)" -v ow="$(median "wal.$1" orbit)" -v h="$(median "replay.$1" heap)" \
		-v o="$(median "replay.$1" orbit)" -v text="$2" -v n="$3" 'BEGIN {
		printf "| %s | %.0f | %.0f | %.2f | %.2f | %.1f | %.1f | %.0f | %.0f | %.2f |\n", text, hw / 1e6, ow / 1e6,
			h, o, hw / 1e6 / h, ow / 1e6 / o, n / h / 1000, n / o / 1000, h / o }'
}

# ---- the run ---------------------------------------------------------------------------

make_server main 'shared_buffers = 1GB' 'max_wal_size = 16GB' 'wal_keep_size = 64GB' 'checkpoint_timeout = 1h' \
	'autovacuum = off' "restore_command = 'false'"
start main
sql "CREATE EXTENSION orbit_fdw"
for am in $AMS; do
	sql "CREATE TABLE t_$am (id int PRIMARY KEY, k int, v bigint, body text) USING $am" \
		"CREATE INDEX ON t_$am (k)"
done
sql "COPY (SELECT g, g % 1000, 0, 'the quick brown fox jumps over the lazy dog' FROM generate_series(1, $ROWS) g) TO '$SCRATCH/rows'"
for load in copy insert update index delete; do
	for am in $AMS; do
		if [[ " $ONLY " == *" $load "* ]]; then
			generate "$load" "$am"
			sql "SELECT count(*), sum(id), sum(k), sum(v) FROM t_$am" >"$SCRATCH/$load.$am.sum"
		elif [ "$load" = copy ]; then
			run_load copy "t_$am"
		fi
	done
done
stop main fast
for ((round = 1; round <= ROUNDS; round++)); do
	for load in $ONLY; do
		for am in $AMS; do replay "$load" "$am"; done
	done
done

cat <<END

| $ROWS rows, replay of | WAL of heap, MB | orbit | heap, s | orbit, s | heap, MB/s | orbit | heap, 1000 rows/s | orbit | orbit is faster by |
|---|---|---|---|---|---|---|---|---|---|
END
row copy "COPY into a table with two indexes" "$ROWS"
row insert "single-row inserts" "$ROWS"
row update "updates of a column without index" "$ROWS"
row index "updates of an indexed column" "$ROWS"
row delete "DELETE of every second row" $((ROWS / 2))

echo
echo "$(nproc) cores, $("$BINDIR/postgres" --version); settings: shared_buffers = 1GB, fsync = on, no restartpoint on the way${CONF:+, $CONF}"
