# Space comes back: disk use falls to what the live rows need, within a bounded time and without VACUUM FULL,
# whether sessions are idle or have an old snapshot, and a queue stays as small as it is.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node in_background);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $delay = 1;	# s: orbit.reclaim_delay
my $bound = 60;	# s: a file's age, ten times that for a smaller share, and a slow machine
my $node = orbit_node('main', q{orbit.write_buffer_size = '1MB'}, "orbit.reclaim_delay = '${delay}s'",
	'fsync = off', q{orbit.snapshot_keep = '1s'}, q{orbit.collect_interval = '1s'}, q{autovacuum_naptime = '1s'}, 'autovacuum_vacuum_scale_factor = 0.05');
my $live = $node->data_dir . '/orbit/pgsql_tmp_live';

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Bytes of RocksDB's table files on disk, and of deleted ones that a process still has open.  A flush leaves
# a file with one key in each column family, and up to 64 of these stay: they are left out.
my $one_key = 4096;

sub disk
{
	my %bytes;
	for my $file (glob("$live/*.sst"))
	{
		my @s = stat $file or next;
		$bytes{$s[1]} = 512 * $s[12] if $s[7] > $one_key;
	}
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	for my $pid (split ' ', `ps -o pid= --ppid $postmaster`)
	{
		for my $fd (glob "/proc/$pid/fd/*")
		{
			my $to = readlink $fd or next;
			next unless $to =~ m{/orbit/.* \(deleted\)$};
			my @s = stat $fd or next;
			# with a link left it is a snapshot that holds it (t/090_snapshots.pl)
			$bytes{$s[1]} = 512 * $s[12] if $s[3] == 0;
		}
	}
	my $sum = 0;
	$sum += $_ for values %bytes;
	return $sum;
}

sub settled
{
	sql('SELECT orbit_flush()');
	return disk();
}

# Waits until disk use is no more than that.
sub falls_to
{
	my ($what, $most) = @_;
	my $start = time;
	my $now = disk();
	while ($now > $most && time - $start < $bound)
	{
		sleep 0.2;
		$now = disk();
	}
	cmp_ok($now, '<=', $most, "$what: disk use falls");
	note(sprintf "%s: %d kB, at most %d kB, after %.1f s", $what, $now / 1024, $most / 1024, time - $start);
	return;
}

# Rows of about 300 bytes that do not compress.
sub load
{
	my ($table, $first, $last) = @_;
	sql(qq{INSERT INTO $table SELECT g, 0, g, string_agg(md5(g::text || i), '')
		FROM generate_series($first, $last) g, generate_series(1, 8) i GROUP BY g});
	return settled();
}

sub table { return sql("CREATE TABLE $_[0] (id int PRIMARY KEY, n int, k int, filler text) USING orbit") }

sub update
{
	my ($table, $times) = @_;
	sql("UPDATE $table SET n = n + 1") for 1 .. $times;
	return;
}

# ---- updates, and sessions that have read the table and sleep ------------------------------------
table('t');
my $fresh = load('t', 1, 10000);
my @idle;
for (1 .. 5)
{
	my $session = $node->background_psql('postgres');
	$session->query_safe('SELECT sum(length(filler)) FROM t; SELECT * FROM t WHERE id = 77');
	push @idle, $session;
}
update('t', 10);
falls_to('every row updated ten times, beside idle sessions', $fresh * 1.2);
is($idle[0]->query_safe('SELECT count(*), sum(n) FROM t'), '10000|100000', 'what they read then');
sql(q{DO $$ BEGIN FOR i IN 1..30000 LOOP UPDATE t SET n = n + 1 WHERE id = 1 + (i::bigint * 7919) % 10000;
	IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$});
falls_to('rows updated one by one', $fresh * 1.2);
is($idle[1]->query_safe('SELECT count(*), sum(n) FROM t'), '10000|130000', 'what they read then');
$_->quit for @idle;

# ---- a snapshot ----------------------------------------------------------------------------------
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
update('t', 3);
sleep 3 * $delay;
sql('SELECT orbit_flush()');
falls_to('a snapshot keeps no more than what was written since', $fresh * 4 * 1.2);
is($old->query_safe('SELECT count(*), sum(n) FROM t'), '10000|130000', 'what it sees');
$old->query_safe('COMMIT');
$old->quit;
falls_to('the snapshot has ended', $fresh * 1.2);
is(sql('SELECT count(*), sum(n) FROM t'), '10000|160000', 'the rows');
sql('DROP TABLE t');

# ---- deletes ---------------------------------------------------------------------------------------
for my $how ([ 'spread', 'id % 10 <> 0' ], [ 'the older ones', 'id <= 9000' ])
{
	my ($what, $where) = @$how;
	falls_to('the table before is dropped', $fresh / 20);
	table('t');
	load('t', 1, 10000);
	sql("DELETE FROM t WHERE $where");
	falls_to("nine tenths deleted, $what", $fresh / 10 * 1.3);
	is(sql('SELECT count(*), sum(id) FROM t'),
		sql("SELECT count(*), sum(id) FROM generate_series(1, 10000) id WHERE NOT ($where)"), "$what: the rows");
	sql('DROP TABLE t');
}

# ---- a queue ------------------------------------------------------------------------------------------
falls_to('the table before is dropped', $fresh / 20);
sql(q{
CREATE TABLE q (id bigserial PRIMARY KEY, body text) USING orbit;
CREATE PROCEDURE work(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		INSERT INTO q (body) SELECT md5(random()::text) || md5(random()::text) FROM generate_series(1, 10);
		DELETE FROM q WHERE id = ANY (ARRAY(SELECT id FROM q ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 10));
		COMMIT;
	END LOOP;
END $$;
INSERT INTO q (body) SELECT md5(g::text) FROM generate_series(1, 100) g;
});
my @took;
my $most = 0;
for (1 .. 6)
{
	my $start = time;
	sql('CALL work(800)');
	push @took, time - $start;
	$most = disk() if disk() > $most;
}
note("seconds: @took; at most $most bytes");
cmp_ok($most, '<', 3_000_000, 'a queue stays small while 48000 rows go through');
my ($best) = sort { $a <=> $b } @took;
cmp_ok($took[5], '<', 5 * $best + 5, 'and quick');
falls_to('the queue rests', 100_000);
is(sql('SELECT count(*), max(id) FROM q'), '100|48100', 'its rows');

$node->stop('fast');
done_testing();
