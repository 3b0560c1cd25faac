# A query of a standby keeps its snapshot whatever the primary and the standby do to the rows:
# flushes, compactions, pruning.  Only the removal of index entries may cancel it, here VACUUM's; and
# with hot_standby_feedback not even that.  What index builds leave out: t/087_standby_indexes.pl.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node orbit_standby);
use OrbitSession;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = orbit_node('primary', { allows_streaming => 1 }, 'autovacuum = off', 'hot_standby_feedback = off',
	'max_standby_streaming_delay = 0', 'orbit.reclaim_threshold = 0', 'orbit.reclaim_delay = 0', 'wal_receiver_status_interval = 1s',
	'wal_retrieve_retry_interval = 100ms');

sub sql { return $primary->safe_psql('postgres', shift) }

sql(q{
CREATE TABLE t (id int PRIMARY KEY, k int, v text);
CREATE INDEX t_k ON t (k);
INSERT INTO t SELECT g, g % 50, repeat('a', g % 200) FROM generate_series(1, 3000) g;
CREATE TABLE loaded (id int PRIMARY KEY, v text);
});
my $standby = orbit_standby($primary);

sub on_standby { return $standby->safe_psql('postgres', shift) }

sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# Everything but what removes index entries or builds indexes, in large and small transactions.
my $new = 10000;

sub load
{
	my ($rounds) = @_;
	for my $i (1 .. $rounds)
	{
		$new += 100;
		sql(qq{
UPDATE t SET v = v || 'x' WHERE id % 3 = $i % 3;
UPDATE t SET v = left(v, 5) WHERE id % 7 = $i % 7;
DELETE FROM t WHERE id % 41 = $i % 41;
INSERT INTO t SELECT g, g % 50, 'new' FROM generate_series($new, $new + 50) g;
BEGIN; UPDATE t SET v = 'undone'; ROLLBACK;
BEGIN; SELECT FROM t WHERE k = 3 FOR UPDATE; SAVEPOINT s; DELETE FROM t WHERE k = 4; ROLLBACK TO s; COMMIT;
INSERT INTO loaded SELECT g, repeat('l', 100) FROM generate_series($new * 10, $new * 10 + 900) g;
SELECT orbit_flush();});
		catch_up();
		on_standby('SELECT orbit_flush()');
		next if $i % 3;
		sql('CHECKPOINT');
		catch_up();
		on_standby('CHECKPOINT');
	}
	return;
}

my $answer = q{SELECT count(*), sum(k), md5(string_agg(concat_ws(',', id, k, v), ';' ORDER BY id)) FROM t WHERE k >= 0};
my ($by_scan, $by_index) = map { my $on = $_; join('; ', map { "SET enable_$_ = " . ($_ eq 'seqscan' ? $on : !$on ? 1 : 0) } qw(seqscan indexscan bitmapscan)) . "; $answer" } 1, 0;

# What a session of the standby sees in its transaction; "by scan" and "by index" must agree.
sub view
{
	my ($s) = @_;
	my @seen = map { $s->ask($_) // 'no answer' } $by_scan, $by_index;
	return $seen[0] eq $seen[1] ? $seen[0] : "by scan $seen[0], by index $seen[1]";
}

sub conflicts { return on_standby(q{SELECT confl_snapshot + confl_lock + confl_bufferpin + confl_deadlock + confl_tablespace FROM pg_stat_database_conflicts WHERE datname = 'postgres'}) }
sub compactions { return on_standby('SELECT compactions FROM orbit_stat_reclaim()') }

# ---- without feedback, and where replay waits for nobody
catch_up();
my $reader = OrbitSession->new($standby, 'postgres', 60);
$reader->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $before = view($reader);
like($before, qr/^3000\|/, 'a snapshot of the standby');
my $compactions = compactions();
load(9);
sql('VACUUM (FREEZE) loaded; ANALYZE t');
catch_up();
is(view($reader), $before, 'it is the same after changes, flushes, compactions, freezing');
cmp_ok(compactions(), '>', $compactions, 'the standby has compacted meanwhile');
is(conflicts(), 0, 'nothing was in conflict');
sql('VACUUM t');
catch_up();
# psql has left when it is asked
my $after = eval { $reader->ask($answer) } // $reader->{out};
like($after, qr/conflict with recovery|server closed the connection|connection to server was lost/, 'VACUUM, which removes index entries, cancels it');
ok($standby->poll_query_until('postgres', q{SELECT confl_snapshot = 1 FROM pg_stat_database_conflicts WHERE datname = 'postgres'}), 'as a conflict of snapshots');
$reader->{run}->kill_kill;
is(on_standby($answer), sql($answer), 'the next query sees what the primary sees');

# ---- with feedback
$standby->append_conf('postgresql.conf', 'hot_standby_feedback = on');
$standby->reload;
$reader = OrbitSession->new($standby, 'postgres', 60);
$reader->ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
$before = view($reader);
my $xmin = on_standby(q{SELECT min(backend_xmin::text::bigint) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND backend_type = 'client backend'});
ok($primary->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_replication WHERE backend_xmin IS NOT NULL'), 'the primary hears of the snapshot');
for my $round (1 .. 4)
{
	load(2);
	sql('VACUUM t; VACUUM (FREEZE) t');
	catch_up();
	is(view($reader), $before, "feedback, round $round: the snapshot is kept");
}
is(conflicts(), 1, 'and nobody was cancelled');
$reader->ask('COMMIT');
is(view($reader), sql($answer), 'after the end of the transaction the changes are seen');
$reader->quit;
sql('VACUUM t');
catch_up();
is(on_standby($by_index), sql($answer), 'by index too, when the entries are gone');
$standby->stop;
$primary->stop;
done_testing();
