#!/bin/bash
# How far disk use falls, and how soon: heap and orbit with the same statements, one
# after the other on one server, autovacuum as it comes, no VACUUM FULL.
#
#   ROWS=300000   rows of a table
#   PER_ROW=10    updates at random for each
#   QUEUE=60      seconds of each queue, with CLIENTS=4
#   CASES="..."   some of: update random delete idle snapshot queue
#   KINDS="..."   text that compresses, or not: blank random
#   AMS="..."     heap orbit
#   SETTLE=600    seconds after which disk use is no longer waited for
#   CONF="..."    more settings, one a line
#   KEEP=1        keep the scratch directory
#
# Bytes are those of the table; in orbit's case all of RocksDB's directory as du counts it (4 MB of
# it are set aside for the MANIFEST) and files that are deleted but still open.  Indexes are PostgreSQL's
# own in both cases, and do not shrink in either.
# "back after" is the time from the end of the statements until disk use is no more than 1.2 times
# that of the same rows freshly loaded.
set -u
. "$(dirname "$0")/server.sh"

ROWS=${ROWS:-300000}
PER_ROW=${PER_ROW:-10}
QUEUE=${QUEUE:-60}
CLIENTS=${CLIENTS:-4}
CASES=${CASES:-update random delete idle snapshot queue}
KINDS=${KINDS:-blank random}
AMS=${AMS:-heap orbit}
SETTLE=${SETTLE:-600}
IDLE=20

# ---- the server -------------------------------------------------------------

# A new one for each table, so that all of RocksDB's directory is its.
start_server()					# start_server AM
{
	[ ! -d "$SCRATCH/data" ] || stop data immediate
	rm -rf "$SCRATCH/data"
	make_server data 'max_wal_size = 8GB'
	start data
	sql "CREATE EXTENSION orbit_fdw" "ALTER DATABASE postgres SET default_table_access_method = $1"
}

# A session that runs the statements and stays, until let_go.
SESSIONS=()
session()
{
	local fd

	exec {fd}> >(as_owner "$BINDIR/psql" -X -q -At >/dev/null 2>&1)
	for statement; do echo "$statement;" >&"$fd"; done
	SESSIONS+=("$fd")
}

# Waits until so many sessions are idle, in a transaction or not.
wait_idle()
{
	until [ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle%' AND backend_type = 'client backend'")" -ge "$1" ]; do
		sleep 0.2
	done
}

let_go()
{
	local fd

	for fd in "${SESSIONS[@]}"; do exec {fd}>&-; done
	SESSIONS=()
}

# ---- sizes --------------------------------------------------------------------

# Bytes of deleted files under the data directory that a process still has open.
deleted_bytes()
{
	local pid

	for pid in $(pgrep -P "$(head -1 "$SCRATCH/data/postmaster.pid")"); do
		find "/proc/$pid/fd" -lname "$SCRATCH/data/*(deleted)" -exec stat -L -c '%d:%i %b' {} + 2>/dev/null
	done | sort -u | awk '{s += $2} END {printf "%.0f\n", s * 512}'
}

# Bytes on disk of the table t or q.
bytes()							# bytes AM TABLE
{
	if [ "$1" = heap ]; then
		sql "SELECT pg_table_size('$2')"
		return
	fi
	echo $(($(du -s -B1 "$SCRATCH/data/orbit" 2>/dev/null | cut -f1) + $(deleted_bytes)))
}

mb()
{
	awk -v b="$1" 'BEGIN {printf "%.1f", b / 1e6}'
}

peak_start()					# peak_start AM TABLE: notes the greatest size until peak_stop
{
	echo 0 >"$SCRATCH/peak"
	(
		while sleep 1; do
			now=$(bytes "$1" "$2" 2>/dev/null)
			[ "${now:-0}" -gt "$(cat "$SCRATCH/peak")" ] && echo "$now" >"$SCRATCH/peak"
		done
	) &
	PEAK=$!
}

peak_stop()
{
	kill "$PEAK" 2>/dev/null
	wait "$PEAK" 2>/dev/null
	cat "$SCRATCH/peak"
}

# until_back AM TABLE FRESH: seconds until the size is at most 1.2 * FRESH, "never", and the last size.
until_back()
{
	local start=$SECONDS now last=0 same=0

	while :; do
		now=$(bytes "$1" "$2")
		if [ $((now * 10)) -le $(($3 * 12)) ]; then
			echo "$((SECONDS - start)) s|$now"
			return
		fi
		[ "$now" -eq "$last" ] && same=$((same + 1)) || same=0
		# heap never gives back what does not change within three rounds of autovacuum
		if [ $((SECONDS - start)) -ge "$SETTLE" ] || { [ "$1" = heap ] && [ "$same" -ge 190 ]; }; then
			echo "not within $((SECONDS - start)) s|$now"
			return
		fi
		last=$now
		sleep 1
	done
}

# row CASE AM FRESH PEAK BACK: a line of the table.
row()
{
	local back=${5%|*} last=${5#*|}

	printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$2" "$(mb "$3")" "$(mb "$4")" \
		"$(mb "$last")" "$(awk -v a="$last" -v b="$3" 'BEGIN {printf "%.2f", a / b}')" "$back" |
		tee -a "$SCRATCH/table" >&2
}

# ---- tables -----------------------------------------------------------------------

pad()							# pad KIND: 84 bytes, an expression of i
{
	if [ "$1" = blank ]; then
		echo "repeat(' ', 84)"
	else
		echo "left(encode(sha256(i::text::bytea), 'hex') || md5(i::text), 84)"
	fi
}

settle()
{
	sql "SELECT orbit_flush()" "CHECKPOINT" >/dev/null
}

load()							# load KIND FROM TO
{
	sql "INSERT INTO t SELECT i, 0, 0, $(pad "$1") FROM generate_series($2, $3) i"
}

create()						# create AM: a table like pgbench_accounts
{
	start_server "$1"
	sql "CREATE TABLE t (id int PRIMARY KEY, bid int, balance int, filler text)"
}

ten_updates()
{
	for ((i = 0; i < 10; i++)); do
		sql "UPDATE t SET balance = balance + 1"
	done
}

updates()						# updates AM KIND
{
	local fresh peak

	create "$1"
	load "$2" 1 "$ROWS"
	settle
	fresh=$(bytes "$1" t)
	peak_start "$1" t
	ten_updates
	row "every row updated 10 times ($2)" "$1" "$fresh" "$(peak_stop)" "$(until_back "$1" t "$fresh")"
}

# The same number of updates, each of a row at random in a transaction of its own.
random_updates()				# random_updates AM KIND
{
	local fresh peak tps

	create "$1"
	load "$2" 1 "$ROWS"
	settle
	fresh=$(bytes "$1" t)
	printf '\\set id random(1, %d)\nUPDATE t SET balance = balance + 1 WHERE id = :id;\n' "$ROWS" >"$SCRATCH/random.sql"
	peak_start "$1" t
	tps=$(PGOPTIONS="-c synchronous_commit=off" as_owner "$BINDIR/pgbench" -n -M prepared -c "$CLIENTS" -j 2 \
		-t $((ROWS * PER_ROW / CLIENTS)) -f "$SCRATCH/random.sql" 2>/dev/null | sed -nE 's/^tps = ([0-9]+).*/\1/p')
	row "$PER_ROW random updates a row ($2, $tps/s)" "$1" "$fresh" "$(peak_stop)" "$(until_back "$1" t "$fresh")"
}

deletes()						# deletes AM KIND WHERE NAME
{
	local fresh peak

	create "$1"
	load "$2" 1 $((ROWS / 10))
	settle
	fresh=$(bytes "$1" t)
	create "$1"
	load "$2" 1 "$ROWS"
	settle
	peak=$(bytes "$1" t)
	sql "DELETE FROM t WHERE $3"
	row "90 % deleted, $4 ($2)" "$1" "$fresh" "$peak" "$(until_back "$1" t "$fresh")"
}

idle()							# idle AM KIND
{
	local fresh

	create "$1"
	load "$2" 1 "$ROWS"
	settle
	fresh=$(bytes "$1" t)
	for ((i = 0; i < IDLE; i++)); do
		session "SELECT count(filler) FROM t" "SELECT * FROM t WHERE id = $((i + 1))"
	done
	wait_idle "$IDLE"
	peak_start "$1" t
	ten_updates
	row "updated 10 times, $IDLE idle sessions ($2)" "$1" "$fresh" "$(peak_stop)" \
		"$(until_back "$1" t "$fresh")"
	echo "  deleted but open: $(deleted_bytes) bytes" >&2
	let_go
}

snapshot()						# snapshot AM KIND
{
	local fresh

	create "$1"
	load "$2" 1 "$ROWS"
	settle
	fresh=$(bytes "$1" t)
	session "BEGIN ISOLATION LEVEL REPEATABLE READ" "SELECT count(*) FROM t"
	wait_idle 1
	peak_start "$1" t
	ten_updates
	sleep 150
	echo "  with the transaction open: $(bytes "$1" t) bytes" >&2
	let_go
	row "updated 10 times beside an old snapshot, which ends ($2)" "$1" "$fresh" "$(peak_stop)" \
		"$(until_back "$1" t "$fresh")"
}

# ---- queues ---------------------------------------------------------------------------

# Tenths of the time: operations a second and size.
queue()							# queue AM BATCH
{
	local n=$2 every=$((QUEUE / 10)) tps tpss=() sizes=()

	start_server "$1"
	sql "CREATE TABLE q (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body text)"
	cat >"$SCRATCH/queue.sql" <<-END
		INSERT INTO q (body) SELECT 'work to be done ' || i FROM generate_series(1, $n) i;
		DELETE FROM q WHERE id IN (SELECT id FROM q ORDER BY id FOR UPDATE SKIP LOCKED LIMIT $n);
	END
	sql "INSERT INTO q (body) SELECT 'work to be done ' || i FROM generate_series(1, 1000) i"
	PGOPTIONS="-c synchronous_commit=off" as_owner "$BINDIR/pgbench" -n -M prepared -c "$CLIENTS" -j 2 \
		-T "$QUEUE" -P "$every" -f "$SCRATCH/queue.sql" >"$SCRATCH/queue.out" 2>&1 &
	for ((i = 0; i < 10; i++)); do
		sleep "$every"
		sizes+=("$(mb "$(bytes "$1" q)")")
	done
	wait $!
	while read -r tps; do tpss+=("$tps"); done < <(sed -nE 's/^progress: .* s, ([0-9]+)[.0-9]* tps.*/\1/p' "$SCRATCH/queue.out")
	{
		echo "queue, $n at a time, $1, $QUEUE s, $(sql "SELECT last_value FROM q_id_seq") rows went through, $(sql "SELECT count(*) FROM q") are there"
		echo "  transactions/s: ${tpss[*]}"
		echo "  MB:             ${sizes[*]}"
	} | tee -a "$SCRATCH/queues" >&2
}

# ---- the run ------------------------------------------------------------------

wanted()
{
	[[ " $CASES " == *" $1 "* ]]
}

touch "$SCRATCH/table" "$SCRATCH/queues"
for am in $AMS; do
	for kind in $KINDS; do
		wanted update && updates "$am" "$kind"
		wanted random && random_updates "$am" "$kind"
		wanted delete && deletes "$am" "$kind" "hashint4(id) % 10 <> 0" spread
		wanted delete && deletes "$am" "$kind" "id <= $((ROWS - ROWS / 10))" "from the beginning"
	done
	wanted idle && idle "$am" random
	wanted snapshot && snapshot "$am" random
	wanted queue && queue "$am" 1
	wanted queue && queue "$am" 100
done

cat <<END

| $ROWS rows | | fresh, MB | peak, MB | then, MB | of fresh | back after |
|---|---|---|---|---|---|---|
END
sort -s -t'|' -k2,2 "$SCRATCH/table"
cat "$SCRATCH/queues"
echo
echo "$(nproc) cores, $("$BINDIR/postgres" --version); settings that differ from initdb's, and orbit's:"
sql "SELECT '  ' || name || ' = ' || current_setting(name) FROM pg_settings
	WHERE name LIKE 'orbit.%' OR name IN ('shared_buffers', 'fsync', 'max_wal_size', 'checkpoint_timeout',
		'autovacuum', 'autovacuum_naptime') ORDER BY name"
