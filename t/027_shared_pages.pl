# Pages in shared memory: who comes later need not go to RocksDB; nobody gets a page from before a flush, whoever
# was slow to put it there; none whose transactions the commit log has forgotten; whatever is pushed out
# comes back right; and a cursor keeps the page that it stands in.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node stop_at set_stop clear_stop wait_stopped in_background wait_done);
use OrbitSession;
use OrbitXids qw(set_next_xid);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = orbit_node('main', 'autovacuum = off', q{orbit.page_cache_size = '2MB'}, 'orbit.reclaim_threshold = 100',
	q{orbit.flush_interval = '1h'});

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub by_index { return sql("SET enable_seqscan = off; SET enable_bitmapscan = off; $_[0]") }

# ---- others need not go to RocksDB
sql(q{CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'old' FROM generate_series(1, 2000) g; SELECT orbit_flush()});

# Pages read from RocksDB by a new session that looks up so many rows.
sub reads
{
	my ($rows) = @_;
	my $before = sql(q{SELECT heap_blks_read FROM pg_statio_all_tables WHERE relname = 't'});
	is(by_index("SELECT count(*) FROM generate_series(1, $rows) g, LATERAL (SELECT v FROM t WHERE id = g OFFSET 0) s"), $rows, "$rows rows");
	return sql(q{SELECT heap_blks_read FROM pg_statio_all_tables WHERE relname = 't'}) - $before;
}
cmp_ok(reads(2000), '>', 0, 'the first session reads from RocksDB');
is(reads(2000), 0, 'the next one does not');

# ---- a flush brings those up to date that are there
sql(q{BEGIN; UPDATE t SET v = 'undone' WHERE id % 5 = 0; ROLLBACK; UPDATE t SET v = 'new' WHERE id % 3 = 0; DELETE FROM t WHERE id = 2000;
	INSERT INTO t VALUES (2000, 'again'); SELECT orbit_flush()});
is(reads(2000), 0, 'nor after a flush');
is(sql('SELECT count(*), sum(id) FROM t WHERE v = $$new$$'), '666|666333', 'what they hold then');
is(sql(q{SELECT count(*), string_agg(v, ',') FILTER (WHERE id = 2000) FROM t WHERE v <> 'new'}), '1334|again', '... and the other rows');

# ... also one that fails, and is tried again after more has been written
sub even { return by_index(q{SELECT string_agg(DISTINCT v, ',') FROM generate_series(2, 1998, 2) g, LATERAL (SELECT v FROM t WHERE id = g OFFSET 0) s}) }
set_stop($node, 'flush-no-space', 'fail', 0);
my $from = -s $node->logfile;
sql(q{UPDATE t SET v = 'unflushed' WHERE id % 2 = 0});
my $flush = in_background($node, 'SELECT orbit_flush()');
ok($node->wait_for_log(qr/could not flush a write buffer/, $from), 'a flush fails');
is(even(), 'unflushed', 'rows of a page that it has brought up to date');
sql(q{BEGIN; UPDATE t SET v = 'undone' WHERE id % 2 = 0; ROLLBACK; UPDATE t SET v = 'later' WHERE id % 2 = 0});
is(even(), 'later', '... which change again');
clear_stop($node, 'flush-no-space');
wait_done($node, 'SELECT orbit_flush');
$flush->quit;
is(even(), 'later', 'the same rows when it has succeeded');
sql('SELECT orbit_flush()');
is(even(), 'later', 'and when all is flushed');
is(reads(2000), 0, 'without RocksDB');

# ... until versions that an old snapshot keeps make the page too large
sql(q{CREATE TABLE w (id int PRIMARY KEY, n int, pad text); ALTER TABLE w ALTER pad SET STORAGE PLAIN;
	INSERT INTO w SELECT g, 0, repeat('x', 500) FROM generate_series(1, 5) g; SELECT orbit_flush()});
my $keeps = OrbitSession->new($node, 'postgres', 60);
my $later = OrbitSession->new($node, 'postgres', 60);
$_->ask('SET enable_seqscan = off') for $keeps, $later;
$keeps->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($keeps->ask('SELECT sum(n) FROM w WHERE id > 0'), 0, 'a snapshot');
my @wrong;
for my $i (1 .. 20)
{
	sql('DO $$ BEGIN FOR i IN 1 .. 10 LOOP UPDATE w SET n = n + 1; COMMIT; END LOOP; END $$');
	sql('SELECT orbit_flush()');
	my $seen = $keeps->ask('SELECT sum(n) FROM w WHERE id > 0') . ' ' . $later->ask('SELECT sum(n) FROM w WHERE id > 0');
	push @wrong, $seen if $seen ne '0 ' . 50 * $i;
}
is(join('; ', @wrong), '', 'after each flush');
$keeps->ask('COMMIT');
is($keeps->ask('SELECT sum(n) FROM w WHERE id > 0'), 1000, 'when it has ended');
$_->quit for $keeps, $later;

# ... and rows that are locked and never changed
sql(q{CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1); CREATE TABLE child (p int REFERENCES parent); SELECT orbit_flush()});
my @lockers = map { OrbitSession->new($node, 'postgres', 60) } 1 .. 3;
for my $i (1 .. 30)
{
	$lockers[ $i % 3 ]->ask($_) for 'BEGIN', 'INSERT INTO child VALUES (1)';
	sql('SELECT orbit_flush()');
	$lockers[ ($i + 1) % 3 ]->ask('COMMIT') if $i > 2;
}
$_->ask('COMMIT') for @lockers;
is(sql('SELECT count(*) FROM child'), 30, 'rows that refer to one');
is(sql('DELETE FROM child; DELETE FROM parent; SELECT count(*) FROM parent'), 0, '... which nobody holds any more');
sql('DROP TABLE w, child, parent');

# ---- a page that was read before a flush and put after it
sql(q{CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, 'first'); SELECT orbit_flush()});
stop_at($node, 'shared_page_put');
my $slow = in_background($node, 'SET enable_seqscan = off; SELECT v FROM s WHERE id = 1');
wait_stopped($node, 'shared_page_put');
sql(q{INSERT INTO s VALUES (2, 'second'); SELECT orbit_flush()});
clear_stop($node, 'shared_page_put');
wait_done($node, 'SELECT v');
$slow->quit;
is(by_index('SELECT v FROM s WHERE id = 2'), 'second', 'who comes after the flush sees the row that it has brought');
is(sql('SELECT ctid FROM s WHERE id = 2'), '(0,2)', '... which is on the same page');

# ---- a page of rows that have all been inserted once is seen as a whole: by those who see all of them
sql(q{CREATE TABLE p (id int PRIMARY KEY, v int); INSERT INTO p SELECT g, 1 FROM generate_series(1, 10) g});
my %ways = (
	'a sequential scan' => 'SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off',
	'an index scan' => 'SET enable_seqscan = off; SET enable_indexscan = on; SET enable_bitmapscan = off',
	'a bitmap scan' => 'SET enable_seqscan = off; SET enable_indexscan = off; SET enable_bitmapscan = on');
my ($old, $open, $new) = map { OrbitSession->new($node, 'postgres', 60) } 1 .. 3;

sub seen
{
	my ($session) = @_;
	my %seen;
	for my $way (sort keys %ways)
	{
		$session->ask($ways{$way});
		$seen{ $session->ask('SELECT count(*) || $$ $$ || sum(v) FROM p WHERE id > 0') } .= "$way; ";
	}
	return join(', ', map { keys %seen == 1 ? $_ : "$_ by $seen{$_}" } sort keys %seen);
}
$old->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
is(seen($old), '10 10', 'a snapshot');
sql(q{INSERT INTO p SELECT g, 1 FROM generate_series(11, 20) g; SELECT orbit_flush()});
is(seen($new), '20 20', 'a later one, for which the page is read');
is(seen($old), '10 10', 'the old one sees no more than before');
sql(q{BEGIN; INSERT INTO p SELECT g, 1 FROM generate_series(21, 30) g; ROLLBACK});
sql(q{BEGIN; INSERT INTO p VALUES (31, 1); SAVEPOINT s; INSERT INTO p VALUES (32, 1); ROLLBACK TO s; INSERT INTO p VALUES (33, 1); COMMIT});
$open->ask($_) for 'BEGIN', 'INSERT INTO p VALUES (41, 1)';
sql('SELECT orbit_flush()');
is(seen($new), '22 22', 'what was rolled back is not seen');
is(seen($open), '23 23', 'who has inserted a row and not committed sees it');
is(seen($old), '10 10', 'nor anything of it by the old snapshot');
$open->ask('COMMIT');
is(seen($new), '23 23', 'the row of a transaction that was in progress when the page was read');
is(seen($old), '10 10', '... which the old snapshot does not see');
sql(q{CREATE TABLE q AS SELECT g AS id, 1 AS v FROM generate_series(1, 10) g; SELECT orbit_flush()});
$new->ask('SELECT sum(v) FROM q');
$new->ask($_) for 'BEGIN ISOLATION LEVEL SERIALIZABLE', 'SELECT sum(v) FROM q';
sql('UPDATE q SET v = 2');
sql('SELECT orbit_flush()');
is($new->ask('SELECT sum(v) FROM q'), 10, 'a serializable snapshot of what has been read before');
$new->ask('COMMIT');
$old->ask('COMMIT');
is($new->ask('SELECT sum(v) FROM q'), 20, 'and a new one');
$_->quit for $old, $open, $new;
sql('DROP TABLE p, q');

# ---- more than there is room for, changed all the time
sql(q{
CREATE TABLE o (id int PRIMARY KEY, n int, pad text) USING orbit WITH (fillfactor = 100);
CREATE TABLE h (LIKE o INCLUDING ALL) USING heap;
INSERT INTO o SELECT g, 0, repeat(md5(g::text), 8) FROM generate_series(1, 20000) g;
INSERT INTO h SELECT * FROM o;
SELECT orbit_flush();});
my $same = 'SELECT count(*) FROM h JOIN LATERAL (SELECT n, pad FROM o WHERE o.id = h.id OFFSET 0) x ON x.n = h.n AND x.pad = h.pad';
is(by_index($same), 20000, 'ten times as many pages as there is room for');
my @others = map { OrbitSession->new($node, 'postgres', 60) } 1 .. 3;
$_->ask('SET enable_seqscan = off') for @others;
my @bad;
for my $i (1 .. 30)
{
	my $change = $i % 3 ? "UPDATE t SET n = n + 1 WHERE id % 97 = $i" : "DELETE FROM t WHERE id % 501 = $i; INSERT INTO t SELECT g, $i, 'x' FROM generate_series($i * 100000, $i * 100000 + 50) g";
	$others[ $i % 3 ]->ask($change =~ s/\bt\b/$_/gr) for qw(o h);
	$others[ ($i + 1) % 3 ]->ask('SELECT orbit_flush()') if $i % 2;
	my $rows = $others[ ($i + 2) % 3 ]->ask('SELECT count(*) FROM h');
	my $found = $others[ ($i + 2) % 3 ]->ask($same);
	push @bad, "$i: $found of $rows" if $found ne $rows;
}
is(join('; ', @bad), '', 'the same rows as in heap, whoever changed them and whoever read them before');

# ---- cursors, whose page is changed, flushed and pushed out, by others and by themselves
my %cursors = (
	'by a sequential scan' => 'SET enable_seqscan = on',
	'backward' => 'SET enable_seqscan = on',
	'by index' => 'SET enable_seqscan = off; SET enable_bitmapscan = off',
	'by bitmap' => 'SET enable_seqscan = off; SET enable_indexscan = off');
for my $how (sort keys %cursors)
{
	my %seen;
	for my $t ('o', 'h')
	{
		my $session = $others[0];
		my $rows = "SELECT id, n, left(pad, 9) FROM $t WHERE id BETWEEN 2000 AND 2400";
		$session->ask("$cursors{$how}; BEGIN; DECLARE c SCROLL CURSOR FOR $rows");
		my @got = $session->ask($how eq 'backward' ? 'MOVE ALL c; FETCH BACKWARD 5 c' : 'FETCH 5 c');
		sql("UPDATE $t SET n = -1 WHERE id BETWEEN 1900 AND 2200; DELETE FROM $t WHERE id BETWEEN 2201 AND 2210; SELECT orbit_flush()");
		sql('SELECT sum(length(pad)) FROM o');
		push @got, $session->ask($how eq 'backward' ? 'FETCH BACKWARD 5 c' : 'FETCH 5 c');
		$session->ask("UPDATE $t SET n = -2 WHERE id BETWEEN 2211 AND 2300; INSERT INTO $t VALUES (-1, 1, 'own')");
		push @got, $session->ask($how eq 'backward' ? 'FETCH BACKWARD ALL c' : 'FETCH ALL c');
		push @got, $session->ask($rows);
		$session->ask('ROLLBACK; RESET ALL');
		sql("UPDATE $t SET n = 5 WHERE n < 0");
		# as heap does: by number of the page, and there is no order to be relied on
		$seen{$t} = join("\n", sort map { split /; / } @got);
	}
	is($seen{o}, $seen{h}, "a cursor sees what it saw when it was opened: $how");
}
sql('DELETE FROM ' . $_ . ' WHERE id BETWEEN 2201 AND 2210') for 'o', 'h';
# what a loop changes, it does not meet again
for my $t ('o', 'h')
{
	sql(qq{CREATE FUNCTION walk_$t() RETURNS text LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS \$\$
DECLARE r record; seen int := 0; total bigint := 0; others int;
BEGIN
	FOR r IN SELECT * FROM $t WHERE id BETWEEN 5000 AND 5500 ORDER BY id LOOP
		seen := seen + 1;
		total := total + r.n;
		UPDATE $t SET n = n + 100 WHERE id BETWEEN r.id AND r.id + 3;
		SELECT sum(n) INTO others FROM $t WHERE id BETWEEN r.id - 2 AND r.id + 5;
		total := total + others;
		IF r.id % 50 = 0 THEN
			PERFORM orbit_flush();
		END IF;
	END LOOP;
	RETURN seen || ' ' || total;
END \$\$});
}
is(sql('SELECT walk_o()'), sql('SELECT walk_h()'), 'a loop that changes the rows before it');

# ---- transactions that the commit log has forgotten
sql('DROP TABLE o, h, s, t');	# VACUUM would push the pages out with theirs
my $next = 3 * 1048576 - 200;
$node->stop;
$node->append_conf('postgresql.conf', "orbit.reclaim_threshold = 20\norbit.snapshot_keep = 0");
set_next_xid($node, $next, $next);
$node->start;
my $holder = OrbitSession->new($node, 'postgres', 60);
$holder->ask('BEGIN; SELECT pg_current_xact_id()');
sql(q{CREATE TABLE f (id int PRIMARY KEY, v text)});
sql(qq{INSERT INTO f SELECT g, 'row' FROM generate_series($_, $_ + 9) g}) for map { 10 * $_ } 0 .. 9;
sql(q{BEGIN; DELETE FROM f WHERE id < 5; ROLLBACK; DELETE FROM f WHERE id >= 95});
sql('SELECT orbit_flush()');
my $rows = 'SELECT count(*), min(id), max(id) FROM generate_series(0, 99) g, LATERAL (SELECT id FROM f WHERE id = g OFFSET 0) x';
is(by_index($rows), '95|0|94', 'rows that are not frozen yet, read into shared memory');
$holder->ask('COMMIT');
sql('SELECT pg_current_xact_id()') for 1 .. 300;
# these stand in a page of transactions from before their snapshots; sessions of their own, for a process
# remembers what it has asked once
my %plan = (seq => 'SET enable_seqscan = on', index => $cursors{'by index'}, bitmap => $cursors{'by bitmap'}, sample => 'SET enable_seqscan = on');
my %reader;
for my $c (sort keys %plan)
{
	my $sample = $c eq 'sample' ? 'TABLESAMPLE system (100)' : '';
	$reader{$c} = OrbitSession->new($node, 'postgres', 60);
	# an index-only scan would hold VACUUM up by its pin in the index, as with heap
	$reader{$c}->ask("SET enable_indexonlyscan = off; $plan{$c}; BEGIN; DECLARE c CURSOR FOR SELECT id FROM f $sample WHERE id >= 0");
	is($reader{$c}->ask('FETCH 3 c'), '0; 1; 2', "a cursor, $c");
}
sql('UPDATE pg_database SET datallowconn = true');
# files are frozen at once; those of older snapshots for backups have to go, too
for (1 .. 10)
{
	$node->command_ok([ 'vacuumdb', '--all', '--freeze', '--quiet' ], 'VACUUM FREEZE of all databases');
	sql('SELECT pg_current_xact_id(); SELECT orbit_flush(); CHECKPOINT') for 1 .. 2;
	last if !-e $node->data_dir . '/pg_xact/0002';
}
ok(!-e $node->data_dir . '/pg_xact/0002', 'the commit log has forgotten the transactions') or diag(sql('SELECT datname, datfrozenxid FROM pg_database UNION ALL SELECT relname, relfrozenxid FROM pg_class WHERE age(relfrozenxid) BETWEEN 300 AND 2000000000'));
is(by_index($rows), '95|0|94', 'the pages in shared memory that would ask for them are not used');
for my $c (sort keys %plan)
{
	my @rest = split /; /, $reader{$c}->ask('FETCH ALL c');
	is(join(' ', sort { $a <=> $b } @rest), join(' ', 3 .. 94), "a cursor that stood in the page goes on, $c");
}

$node->stop;
done_testing();
