# A unique check reads rows while it holds a page of the index, and everybody who comes to that page waits
# for it.  So it may wait for nobody: not for room in the write buffers, not for the
# transaction that inserted the same key.  First each alone, then many clients on few keys with
# buffers that are full all the time; no key may be there twice, or be lost.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use OrbitSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = orbit_node('main', 'autovacuum = off', q{orbit.flush_interval = '1h'}, 'orbit.max_write_buffers = 2',
	'fsync = off', q{deadlock_timeout = '1min'});

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub wait_for
{
	my ($what, $query) = @_;
	my $until = time + 20;
	until (sql($query) eq 't')
	{
		BAIL_OUT($what) if time > $until;
		sleep 0.02;
	}
	return;
}

sql(q{
CREATE EXTENSION amcheck;
CREATE TABLE now (k INT CONSTRAINT now_k UNIQUE, v TEXT) USING orbit;
CREATE TABLE later (k INT CONSTRAINT later_k UNIQUE DEFERRABLE INITIALLY DEFERRED, v TEXT) USING orbit;
CREATE TABLE filler (t TEXT) USING orbit;
INSERT INTO now SELECT g, 'old' FROM generate_series(1, 100) g;
INSERT INTO later SELECT g, 'old' FROM generate_series(1, 100) g;
SELECT orbit_flush();
});

my $duplicate = 'ERROR:  duplicate key value violates unique constraint';
my ($s1, $s2, $s3, $fill, $fill_up) = map { OrbitSession->new($node, 'postgres', 20) } 1 .. 5;

sub is_answered
{
	my ($s, $expected, $what) = @_;
	my $got = $s->answer;
	is($got, $expected, $what);
	BAIL_OUT('a session hangs in a unique check') unless defined $got;
	return;
}

sub asked
{
	my ($s, $sql, $expected, $what) = @_;
	$s->send($sql);
	is_answered($s, $expected, $what);
	return;
}

sub waits_for_transaction
{
	my ($s) = @_;
	wait_for('it does not wait',
		"SELECT wait_event_type = 'Lock' AND wait_event = 'transactionid' FROM pg_stat_activity WHERE pid = " . $s->pid);
	return;
}

# ---- the write buffers are full -----------------------------------------------------------------

# The worker stands before each ingest, and two wait for room: the second one for a few hundred bytes.
sub fill_buffers
{
	my $waits = sql('SELECT reserve_waits FROM orbit_stat_storage()');
	my $more = "SELECT reserve_waits > %d FROM orbit_stat_storage()";
	sql(q{SELECT orbit_stop_point_set('flush-before-ingest', 'wait', 0)});
	$fill->send(q{INSERT INTO filler SELECT repeat('f', 1000) FROM generate_series(1, 2000)});
	wait_for('the buffers do not fill', sprintf($more, $waits));
	$fill_up->send(q{DO $$ BEGIN FOR i IN 1 .. 2000 LOOP INSERT INTO filler VALUES ('f'); END LOOP; END $$});
	wait_for('the buffers do not fill up', sprintf($more, $waits + 1));
	return;
}

# A deferred constraint checks the key again at COMMIT, which itself needs no room.
for my $end ('COMMIT', 'ROLLBACK')
{
	asked($s1, q{BEGIN; INSERT INTO later VALUES (50, 'again')}, '', 'a duplicate');
	asked($s2, q{BEGIN; INSERT INTO later VALUES (500, 'other')}, '', 'a new key');
	asked($s3, q{BEGIN; INSERT INTO later VALUES (500, 'too')}, '', 'the same, which waits for nobody yet');
	sql(q{UPDATE later SET v = 'newer' WHERE k BETWEEN 40 AND 60; SELECT orbit_flush()});
	fill_buffers();
	asked($s1, 'COMMIT', qq{$duplicate "later_k"}, 'full buffers: a duplicate is found');
	$s3->send('COMMIT');
	waits_for_transaction($s3);
	asked($s1, 'SET enable_seqscan = off; SELECT v FROM later WHERE k IN (50, 500)', 'newer',
		'full buffers: the page is free while somebody waits for the other inserter');
	asked($s2, $end, '', "full buffers: the other inserter ends with $end");
	is_answered($s3, $end eq 'COMMIT' ? qq{$duplicate "later_k"} : '', "full buffers: the waiter, after $end");
	ok(!$fill->answered && !$fill_up->answered, 'all that time there was no room');
	sql(q{SELECT orbit_stop_point_clear('flush-before-ingest')});
	is_answered($_, '', 'then there is') for $fill, $fill_up;
	is(sql(q{DELETE FROM later WHERE k = 500; SELECT count(*) FROM later}), 100, 'the others are there');
}

# ---- another transaction has inserted the key --------------------------------------------------------

for my $end ('COMMIT', 'ROLLBACK')
{
	for my $insert ('INSERT INTO now VALUES (600, %s)', 'INSERT INTO now VALUES (600, %s) ON CONFLICT DO NOTHING')
	{
		my $first = sprintf($insert, "'first'");
		asked($s2, "BEGIN; $first", '', "the first: $first");
		$s1->send(sprintf($insert, "'second'"));
		waits_for_transaction($s1);
		asked($s3, 'SET enable_seqscan = off; SELECT v FROM now WHERE k = 600', '', 'the page can be read');
		asked($s3, q{INSERT INTO now VALUES (599, 'beside')}, '', 'and written');
		sql('SELECT orbit_flush()');
		asked($s2, q{INSERT INTO now VALUES (601, 'beside too')}, '', 'by the first inserter also');
		asked($s2, $end, '', "which ends with $end");
		is_answered($s1, $end eq 'ROLLBACK' || $insert =~ /CONFLICT/ ? '' : qq{$duplicate "now_k"}, "the second, after $end");
		is(sql('SELECT string_agg(v, $$,$$) FROM now WHERE k = 600'), $end eq 'ROLLBACK' ? 'second' : 'first', 'one of them is there');
		sql('DELETE FROM now WHERE k > 500');
	}
}
$_->quit for $s1, $s2, $s3, $fill, $fill_up;

# ---- many at once ---------------------------------------------------------------------------------------

# What each transaction believes to have done is in `done`: a key is there once or not at all.
sql(q{
CREATE TABLE done (k INT, n INT) USING heap;
CREATE FUNCTION step(key INT, what INT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n INT := 0;
BEGIN
	IF what < 4 THEN
		INSERT INTO now VALUES (key, repeat('w', 1 + key % 300));
		n := 1;
	ELSIF what < 6 THEN
		INSERT INTO now VALUES (key, 'c') ON CONFLICT DO NOTHING;
		GET DIAGNOSTICS n = ROW_COUNT;
	ELSIF what < 7 THEN
		INSERT INTO now VALUES (key, 'u') ON CONFLICT (k) DO UPDATE SET v = now.v || 'u' RETURNING (xmax = 0)::int INTO n;
	ELSIF what < 9 THEN
		DELETE FROM now WHERE k = key;
		GET DIAGNOSTICS n = ROW_COUNT;
		n := -n;
	ELSE
		INSERT INTO filler SELECT repeat('f', 1500) FROM generate_series(1, 60);
	END IF;
	INSERT INTO done VALUES (key, n);
EXCEPTION WHEN unique_violation THEN
	NULL;
END $$;
TRUNCATE now, filler;
});
my $script = PostgreSQL::Test::Utils::tempdir() . '/script';
append_to_file($script, "\\set key random(1, 40)\n\\set what random(0, 9)\nSELECT step(:key, :what);\n");
my $waits = sql('SELECT reserve_waits FROM orbit_stat_storage()');
$node->command_ok([ 'pgbench', '-n', '-f', $script, '-c', 8, '-j', 2, '-T', 4, 'postgres' ], 'many clients on few keys');
cmp_ok(sql('SELECT reserve_waits FROM orbit_stat_storage()'), '>', $waits, 'they had to wait for room');
is( sql(q{SELECT count(*) FROM (SELECT k, sum(n)::bigint AS n FROM done GROUP BY k HAVING sum(n) <> 0) d
		FULL JOIN (SELECT k, count(*) AS n FROM now GROUP BY k) t USING (k) WHERE d.n IS DISTINCT FROM t.n OR t.n <> 1}),
	0, 'each key is there as often as it should');
is(sql(q{SELECT bt_index_check('now_k', true)}), '', 'the index has them all');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process died');
$node->stop;
done_testing();
