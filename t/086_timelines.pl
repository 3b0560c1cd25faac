# A server whose RocksDB holds changes of a timeline that the others have left is refused: an old
# primary that has not been rewound, or a standby that had replayed more than the promoted one.
# Otherwise redo would take the new timeline's changes for flushed, and skip them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Copy qw(copy);
use OrbitNode qw(orbit_node orbit_standby start_is_refused);
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = orbit_node('primary', { allows_streaming => 1 }, 'autovacuum = off', 'wal_retrieve_retry_interval = 100ms',
	'wal_keep_size = 1GB');
$primary->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my $standby = orbit_standby($primary);
my $ahead = orbit_standby($standby, 'ahead');

sub rows { return $_[0]->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE v = 'old'), count(*) FILTER (WHERE v = 'new') FROM t}) }

sub catch_up
{
	my ($node) = @_;
	my $lsn = $primary->lsn('insert');
	$node->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'::pg_lsn") or die 'no catch-up';
	return;
}

# ---- a history that forks -------------------------------------------------------------------
$primary->safe_psql('postgres', q{INSERT INTO t SELECT g, 'both' FROM generate_series(1, 100) g; CHECKPOINT; SELECT orbit_flush()});
catch_up($_) for $standby, $ahead;
$_->safe_psql('postgres', 'CHECKPOINT') for $standby, $ahead;
# from here on the other standby follows the primary, and this one sees nothing more
$standby->stop;
$ahead->stop;
$ahead->enable_streaming($primary);
$ahead->start;
my $fork = $primary->lsn('insert');
$primary->safe_psql('postgres', q{INSERT INTO t SELECT g, 'old' FROM generate_series(101, 400) g; SELECT orbit_flush()});
catch_up($ahead);
is(rows($ahead), '400|300|0', 'the other standby has what the promoted one will never have');
$ahead->safe_psql('postgres', 'SELECT orbit_flush()');
is($_->safe_psql('postgres', "SELECT flushed_lsn > '$fork' FROM orbit_stat_storage()"), 't', 'RocksDB of ' . $_->name . ' is beyond the fork')
  for $primary, $ahead;
$ahead->stop('immediate');
$primary->stop('immediate');

$standby->start;
$standby->promote;
$standby->safe_psql('postgres', q{INSERT INTO t SELECT g, 'new' FROM generate_series(101, 200) g; SELECT pg_switch_wal(); CHECKPOINT});
is(rows($standby), '200|0|100', 'the promoted standby has a history of its own');

# ---- who must not follow ------------------------------------------------------------------------
# Files of the new timeline, as an archive would give them.
sub give_wal
{
	my ($node, $what) = @_;
	my ($from, $to) = map { $_->data_dir . '/pg_wal' } $standby, $node;
	for my $file (glob "$from/$what")
	{
		my ($name) = $file =~ m{([^/]+)$};
		copy($file, "$to/$name") or die "$name: $!";
	}
	return;
}

sub log_has
{
	my ($node, $pattern) = @_;
	return slurp_file($node->logfile) =~ $pattern;
}

# A copy, since what is done to the first is not to be seen by the next.
sub old_primary
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init_from_backup($primary, 'old', has_streaming => 1);
	$node->enable_streaming($standby);
	return $node;
}
$primary->backup_fs_cold('old');

my $refused = qr/RocksDB directory ".*" is not part of the history of timeline 2/;
my $hint = qr/Use pg_rewind/;
my $node = old_primary('has_both');
give_wal($node, '00000002*');
ok(start_is_refused($node), 'an old primary that is given the new timeline does not start');
ok(log_has($node, $refused) && log_has($node, $hint), '... and says why, and what to do');
ok(start_is_refused($node), '... nor the next time');

$node = old_primary('lost_its_own');
my $wal = $node->data_dir . '/pg_wal';
unlink glob "$wal/00000001*";
give_wal($node, '00000001*');
for my $partial (glob "$wal/*.partial")
{
	rename($partial, $partial =~ s/\.partial$//r) or die $!;
}
ok(start_is_refused($node), 'nor one that lost the end of its own and learns of the new one while it follows');
ok(log_has($node, $refused) && log_has($node, $hint), '... and says why');

# PostgreSQL's own refusals come first where they can.
$node = old_primary('streams');
$node->start;
ok($node->poll_query_until('postgres', q{SELECT pg_is_in_recovery()}), 'an old primary that can only stream starts');
for (1 .. 300)
{
	last if log_has($node, qr/forked off current database system timeline/);
	select undef, undef, undef, 0.1;
}
ok(log_has($node, qr/forked off current database system timeline/), '... but does not follow');
is(rows($node), '400|300|0', '... and still has what it had');
$node->stop;

$ahead->enable_streaming($standby);
give_wal($ahead, '00000002*');
ok(start_is_refused($ahead), 'a standby that was ahead does not start');
ok(log_has($ahead, qr/requested timeline 2 does not contain minimum recovery point|is not a child of this server's history/), '... for its minimum recovery point');

# ---- who may --------------------------------------------------------------------------------------
# Over a crash between the promotion and its first checkpoint, and as a follower, nothing is refused.
my $follower = orbit_standby($standby, 'follower');
$standby->safe_psql('postgres', q{INSERT INTO t SELECT g, 'new' FROM generate_series(201, 300) g; SELECT orbit_flush()});
my $lsn = $standby->lsn('insert');
$follower->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'::pg_lsn") or die 'no catch-up';
$standby->stop('immediate');
$follower->promote;
$follower->safe_psql('postgres', q{INSERT INTO t SELECT g, 'new' FROM generate_series(301, 400) g; SELECT orbit_flush()});
$follower->stop('immediate');
$follower->start;
is(rows($follower), '400|0|300', 'promoted, written to, flushed, crashed: everything is there');
$standby->enable_streaming($follower);
$standby->set_standby_mode;
$standby->start;
$lsn = $follower->lsn('insert');
$standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'::pg_lsn") or die 'no catch-up';
is(rows($standby), '400|0|300', 'the former primary, which had nothing of its own, follows');
$standby->stop('immediate');
$standby->start;
is(rows($standby), '400|0|300', 'over a crash too');
$_->stop for $standby, $follower;
done_testing();
