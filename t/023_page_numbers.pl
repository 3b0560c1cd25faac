# Page numbers that reach far: behind the first segment of a file (131072 pages), where PostgreSQL's own
# prefetching would miss one, and at the end of what a table has: warnings, an error, nothing
# lost, and a rewrite that begins anew.  Numbers in between are skipped, not filled.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use PostgreSQL::Test::Utils;
use Test::More;

my $limit = 4294967294;
my $step = int($limit / 1000);
my $warn = 900 * $step;
my $node = orbit_node('main', 'autovacuum = off', q{orbit.flush_interval = '1h'}, q{orbit.write_buffer_size = '4MB'},
	'jit = off', 'max_parallel_workers_per_gather = 2', 'parallel_setup_cost = 0',
	'parallel_tuple_cost = 0', 'fsync = off');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Rows of about 1900 bytes, four a page.
sql(q{
CREATE FUNCTION orbit_use_pages(rel regclass, pages bigint) RETURNS void
	AS 'orbit_fdw', 'orbit_use_pages' LANGUAGE C STRICT;
CREATE TABLE p (id INT PRIMARY KEY, k INT, d INT[], s TEXT) USING orbit;
CREATE TABLE twin (LIKE p INCLUDING ALL) USING heap;
ALTER TABLE p ALTER s SET STORAGE PLAIN;
CREATE INDEX p_k ON p (k);
CREATE INDEX p_d ON p USING gin (d);
CREATE FUNCTION fill(lo INT, hi INT) RETURNS void LANGUAGE sql AS $$
	INSERT INTO p SELECT g, g % 10, ARRAY[g % 7, g % 5 + 10], repeat(chr(65 + g % 26), 1900) FROM generate_series(lo, hi) g;
	INSERT INTO twin SELECT g, g % 10, ARRAY[g % 7, g % 5 + 10], repeat(chr(65 + g % 26), 1900) FROM generate_series(lo, hi) g $$;
});

my $sum = q{SELECT count(*), sum(hashtext(x::text)::bigint) FROM %s x WHERE %s};
my $off = 'SET enable_seqscan = off; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_tidscan = off;';

# The rows that a condition wants, read in one way, are those of the twin; the plan has a node like this.
sub reads
{
	my ($what, $node_like, $settings, $condition) = @_;
	my $query = sprintf($sum, 'p', $condition);
	like(sql("$off $settings; EXPLAIN (COSTS OFF) $query"), qr/$node_like/, "$what: the plan");
	is(sql("$off $settings; $query"), sql(sprintf($sum, 'twin', $condition)), "$what: the rows");
	return;
}

sub reads_all
{
	my ($what) = @_;
	# Estimates of so sparse a table are not such that a parallel plan looks good.
	my $parallel = q{BEGIN; SET LOCAL allow_system_table_mods = on; SET LOCAL min_parallel_table_scan_size = 0;
		SET LOCAL seq_page_cost = 0; SET LOCAL random_page_cost = 0;
		UPDATE pg_class SET relpages = 100000, reltuples = 1000 WHERE oid = 'p'::regclass;};
	my $bitmap = 'SET enable_bitmapscan = on; SET max_parallel_workers_per_gather = 0; SET effective_io_concurrency = ';
	reads("$what, in order", '(?<!Parallel )Seq Scan', 'SET enable_seqscan = on; SET max_parallel_workers_per_gather = 0', 'true');
	reads("$what, in parallel", 'Parallel Seq Scan', "$parallel SET enable_seqscan = on", 'true');
	reads("$what, by an index", 'Index Scan using p_pkey', 'SET enable_indexscan = on', 'id > 0');
	reads("$what, by a bitmap without prefetching", 'Bitmap Heap Scan', "$bitmap 0", 'k = 3');
	reads("$what, by a bitmap", 'Bitmap Heap Scan', "$bitmap 50", 'k = 3');
	reads("$what, by a bitmap of a GIN index", 'Bitmap Index Scan on p_d', "$bitmap 50", 'd @> ARRAY[3, 12]');
	reads("$what, by a bitmap in parallel", 'Parallel Bitmap Heap Scan',
		"$parallel SET enable_bitmapscan = on; SET effective_io_concurrency = 50", 'k BETWEEN 2 AND 7');
	return;
}

# ---- behind the first segment ----------------------------------------------------------------

sql("SELECT fill(1, 400); SELECT orbit_use_pages('p', 131060); SELECT fill(401, 500); SELECT orbit_flush()");
is(sql(q{SELECT min(ctid), max(ctid) FROM p WHERE id > 400}), '(131060,1)|(131084,4)', 'pages around the end of a segment');
sql("SELECT orbit_use_pages('p', 140000); SELECT fill(501, 900)");
reads_all('140,100 pages');
# Of 225 pages with rows about 48 are in the sample.
sql('SET maintenance_io_concurrency = 50; ANALYZE p');
is(sql(q{SELECT relpages, reltuples BETWEEN 300 AND 1500 FROM pg_class WHERE oid = 'p'::regclass}), '140100|t',
	'ANALYZE looks at pages behind the first segment');
sql('UPDATE p SET s = lower(s) WHERE id % 3 = 0; UPDATE twin SET s = lower(s) WHERE id % 3 = 0;
	DELETE FROM p WHERE id % 11 = 0; DELETE FROM twin WHERE id % 11 = 0; UPDATE p SET k = 3 WHERE id % 13 = 0; UPDATE twin SET k = 3 WHERE id % 13 = 0');
sql("SELECT orbit_use_pages('p', 3000000); SELECT fill(1001, 1100); SELECT orbit_flush(); SELECT fill(1101, 1200)");
reads_all('3 million pages');
sql('SET maintenance_io_concurrency = 50; VACUUM ANALYZE p');
sql('REINDEX TABLE p; CREATE INDEX p_brin ON p USING brin (id)');
reads('a BRIN index', 'Bitmap Index Scan on p_brin',
	'BEGIN; ALTER TABLE p DROP CONSTRAINT p_pkey; SET LOCAL enable_bitmapscan = on; SET LOCAL effective_io_concurrency = 50',
	'id BETWEEN 350 AND 1150');
sql('DROP INDEX p_brin');
$node->stop('immediate');
$node->start;
reads_all('3 million pages after a crash');

# ---- the last tenth ------------------------------------------------------------------------------

sub notices
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	return $err;
}

sub count_of
{
	my ($pattern, $text) = @_;
	my $n = () = $text =~ /$pattern/g;
	return $n;
}

my $log = -s $node->logfile;
for ([ $warn, 1210, '90.0' ], [ $warn + $step, 1230, '90.1' ], [ $warn + 99 * $step, 1250, '99.9' ])
{
	my ($page, $id, $percent) = @$_;
	sql("SELECT orbit_use_pages('p', $page - 1)");
	my $err = notices("SELECT fill($id, $id + 11)");
	like($err, qr/WARNING:  table "p" has used up \Q$percent\E % of its $limit pages\nDETAIL:.*\nHINT:  Rewrite the table/,
		"a warning at $percent %");
	is(count_of('WARNING', $err), 1, 'one of them');
	is(notices("SELECT fill($id + 12, $id + 15)"), '', 'and none for the next page');
}
is(count_of('WARNING:  table "p" has used up', substr(slurp_file($node->logfile), $log)), 3, 'the log has them too');

# ---- the end ------------------------------------------------------------------------------------------

my $row = q{INSERT INTO p VALUES (2000, 3, NULL, repeat('x', 1900))};

sub refused
{
	my ($what, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($err, qr/ERROR:  54000: table "p" has used up its $limit pages\nDETAIL:.*\nHINT:  Rewrite the table with VACUUM FULL/, $what);
	return;
}

sub end_holds
{
	my ($what) = @_;
	reads_all($what);
	like(sql(q{SELECT max(ctid) FROM p}), qr/^\(4294967293,/, "$what: the last row's place");
	is(sql(q{SELECT id FROM p WHERE ctid = (SELECT max(ctid) FROM p)}), 1302, "$what: by its TID");
	is(sql(q{SELECT string_agg(id::text, ' ') FROM p WHERE ctid >= '(4294967293,0)'}), '1301 1302', "$what: by a range of TIDs");
	is(sql(q{BEGIN; DECLARE c SCROLL CURSOR FOR SELECT id FROM p; MOVE ALL FROM c; FETCH BACKWARD 3 FROM c}), "1302\n1301\n1265",
		"$what: from the end backwards");
	refused("$what: no room for a row", $row);
	return;
}

sql("SELECT orbit_use_pages('p', $limit - 1); SELECT fill(1301, 1302)");
refused('rows that do not fit', 'SELECT fill(1303, 1400)');
refused('nor a row', $row);
refused('nor by COPY', "COPY p (id, s) FROM STDIN;\n2000\t" . 'x' x 1900 . "\n\\.\n");
end_holds('at the end');

# What needs no new row goes on, and a refused change leaves the old row.
sql(q{UPDATE p SET s = 'changed' WHERE id BETWEEN 1250 AND 1302; UPDATE twin SET s = 'changed' WHERE id BETWEEN 1250 AND 1302;
	DELETE FROM p WHERE id IN (3, 1255); DELETE FROM twin WHERE id IN (3, 1255)});
sql(q{INSERT INTO p (id) VALUES (1301) ON CONFLICT (id) DO UPDATE SET s = p.s || '!'; UPDATE twin SET s = s || '!' WHERE id = 1301});
refused('an update that makes a new row', q{UPDATE p SET k = 4, s = repeat('y', 1900) WHERE id = 1302});
is(sql(q{BEGIN;
	DO $$ BEGIN UPDATE p SET s = 'never'; UPDATE p SET k = 4; EXCEPTION WHEN program_limit_exceeded THEN END $$;
	UPDATE p SET s = 'once more' WHERE id = 1302;
	COMMIT;
	SELECT count(*) FROM p WHERE s = 'never'}), 0, 'a part of a transaction that is refused');
sql(q{UPDATE twin SET s = 'once more' WHERE id = 1302});
is(notices('SELECT id FROM p WHERE id = 1302 FOR UPDATE; CREATE INDEX CONCURRENTLY p_again ON p (id, k); DROP INDEX p_again; VACUUM p; REINDEX TABLE p'), '',
	'locks, indexes and VACUUM');
is(sql(q{SELECT relpages::bigint & 4294967295 FROM pg_class WHERE oid = 'p'::regclass}), $limit, 'VACUUM counts the pages');
end_holds('at the end, changed');
sql('CHECKPOINT');
$node->stop('immediate');
$node->start;
end_holds('at the end, after a crash');
$node->restart;
end_holds('at the end, after a restart');

# ---- a rewrite begins anew ------------------------------------------------------------------------------

is(notices('BEGIN; CLUSTER p USING p_pkey; ROLLBACK'), '', 'a rewrite that is undone');
end_holds('a rewrite undone');
is(notices('VACUUM FULL p; ANALYZE p'), '', 'VACUUM FULL');
is(sql(q{SELECT relpages BETWEEN 200 AND 400, reltuples = (SELECT count(*) FROM twin), (SELECT max(ctid) < '(400,1)' FROM p) FROM pg_class WHERE oid = 'p'::regclass}),
	't|t|t', 'it needs few pages now');
is(notices('SELECT fill(2001, 2100); UPDATE p SET k = 4 WHERE id = 1302; UPDATE twin SET k = 4 WHERE id = 1302'), '', 'there is room again');
reads_all('rewritten');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing died');
$node->stop;
done_testing();
