# kill -9 at each step of what writes: flush, compaction, VACUUM, truncation, the search for dropped
# tables, promotion.  The process that is at the step dies, or all of them; the server recovers; then the
# orbit table holds what a heap table holds that got the same changes in the same transactions, its
# indexes fit, its files are sound.  And on to the next.
#
# ORBIT_KILLS: how many kills at steps taken at random follow; ORBIT_SEED.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitFaults qw(use_faults set_fault);
use OrbitNode qw(orbit_node set_stop stop_at wait_stopped ask worker_pid wait_recovered kill_all_and_start);
use OrbitPair qw(create_pair pair_is_same);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $seed = $ENV{ORBIT_SEED} // 1;
srand($seed);

my $node = orbit_node(
	'steps', { allows_streaming => 1 },
	'autovacuum = off', q{orbit.flush_interval = '1h'}, q{orbit.reclaim_delay = 0}, q{orbit.reclaim_threshold = 0},
	q{orbit.collect_interval = '50ms'}, q{checkpoint_timeout = '1h'}, 'max_wal_size = 1GB', 'restart_after_crash = on', 'log_statement = none', 'fsync = off');
use_faults($node);
create_pair($node);
$node->safe_psql('postgres', q{
CREATE EXTENSION amcheck;
CALL churn(1, 600, 800, 1);
-- Deletes a third.
CREATE PROCEDURE thin(part int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		IF i % 3 = part % 3 THEN
			CALL change(4, i, i);
		END IF;
	END LOOP;
END $$;
-- Empties both, and fills them again in part.
CREATE PROCEDURE empty(how text) LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE r, h;
	FOR i IN 1 .. 50 LOOP
		CALL change(1, i, i * 7);
	END LOOP;
	IF how = 'undone' THEN
		RAISE EXCEPTION 'undone';
	END IF;
END $$;
});

sub sql { return $node->safe_psql('postgres', $_[0]) }

# ---- what is done meanwhile -----------------------------------------------------------------

# A session is begun, and what becomes of it is seen elsewhere.
my @busy;
my $scratch = PostgreSQL::Test::Utils::tempdir();

sub busy
{
	my ($sql) = @_;
	my $file = $scratch . '/' . @busy . '.sql';
	open(my $fh, '>', $file) or die "$file: $!";
	print $fh join("\n", map { "$_;" } split /;/, $sql), "\n";
	close $fh;
	push @busy, IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-f', $file ],
		'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
	return;
}

my $salt = $seed * 1000;

sub write_both
{
	$salt += 2;
	busy("CALL churn($_ * 300 + 1, $_ * 300 + 300, 100000, $salt + $_)") for 0 .. 1;
	return;
}

my %work = (
	flush => sub {
		write_both();
		busy(join(';', ('SELECT pg_sleep(0.02)', 'SELECT orbit_flush()', 'CHECKPOINT') x 100));
	},
	# nobody writes, so what is done to RocksDB's files is a compaction
	quiet => sub { },
	vacuum => sub {
		busy(join(';', map { ("CALL thin($_)", 'VACUUM (FREEZE, PARALLEL 0) r', 'SELECT pg_sleep(0.1)') } 1 .. 20));
		$salt++;
		busy("CALL churn(1, 600, 100000, $salt)");
	},
	empty => sub {
		busy(join(';', map { my $how = $_ % 2 ? 'done' : 'undone'; ("CALL empty('$how')", "CALL churn(1, 100, 20, $_)") } 1 .. 200));
	},
	# emptied by the transaction that made it; temporary tables at each commit
	reset => sub {
		busy(join(';', map { "BEGIN; CREATE TABLE IF NOT EXISTS made (k int); INSERT INTO made SELECT generate_series(1, 300);" .
			" CALL change(0, $_, $_); TRUNCATE made; INSERT INTO made VALUES ($_); CALL change(2, $_, $_); COMMIT; DROP TABLE made" } 1 .. 200));
		busy('CREATE TEMP TABLE t (k int) ON COMMIT DELETE ROWS;' .
			join(';', map { "BEGIN; INSERT INTO t SELECT generate_series(1, 50); CALL change(2, $_, $_); COMMIT" } 1 .. 200));
	},
	drop => sub {
		write_both();
		busy(join(';', map { "CREATE TABLE gone AS SELECT g FROM generate_series(1, 1000) g; SELECT orbit_flush(); DROP TABLE gone; SELECT pg_sleep(0.1)" } 1 .. 100));
	});

# ---- the steps ----------------------------------------------------------------------------------

sub stop { return { point => $_[0], skip => $_[1] // 0 } }
sub fault { return { calls => $_[0], files => $_[1], skip => $_[2] // 0, after => $_[3] // 0 } }

my @steps = (
	[ 'flush', 'flush', stop('worker-before-seal', 2) ],
	[ 'flush', 'flush', fault('create', '*stage/*.sst', 3) ],
	[ 'flush', 'flush', fault('write', '*stage/*.sst', 7) ],
	[ 'flush', 'flush', fault('sync', '*stage/*.sst', 1) ],
	[ 'flush', 'flush', stop('flush-before-ingest', 1) ],
	[ 'flush', 'flush', fault('link', '*live/*.sst', 0) ],
	[ 'flush', 'flush', fault('link', '*live/*.sst', 3, 1) ],
	[ 'flush', 'flush', fault('sync', '*pgsql_tmp_live', 1, 1) ],
	[ 'flush', 'flush', fault('write', '*MANIFEST*', 1) ],
	[ 'flush', 'flush', fault('write', '*MANIFEST*', 4, 1) ],
	[ 'flush', 'flush', fault('sync', '*MANIFEST*', 2) ],
	[ 'flush', 'flush', fault('sync', '*MANIFEST*', 3, 1) ],
	[ 'flush', 'flush', fault('delete', '*stage/*.sst', 2) ],
	[ 'flush', 'flush', stop('flush-after-ingest', 1) ],
	[ 'flush', 'flush', stop('worker-after-flush', 2) ],
	[ 'flush', 'flush', stop('worker-before-bump', 5) ],
	[ 'compaction', 'flush', stop('compact-before-start', 1) ],
	[ 'compaction', 'flush', fault('write', '*live/*.sst', 0) ],
	[ 'compaction', 'flush', fault('write', '*live/*.sst', 5) ],
	[ 'compaction', 'quiet', fault('sync', '*live/*.sst', 0, 1) ],
	[ 'compaction', 'quiet', fault('write', '*MANIFEST*', 0) ],
	[ 'compaction', 'quiet', fault('write', '*MANIFEST*', 0, 1) ],
	[ 'compaction', 'quiet', fault('sync', '*MANIFEST*', 0, 1) ],
	[ 'compaction', 'flush', stop('compact-after-job', 1) ],
	[ 'compaction', 'quiet', stop('worker-before-generation', 0) ],
	[ 'compaction', 'flush', fault('delete', '*live/*.sst', 0) ],
	[ 'compaction', 'flush', fault('delete', '*live/*.sst', 3, 1) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-before-cleanup-record', 0) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-before-indexes', 1) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-after-indexes', 0) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-before-cleaned', 0) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-after-cleaned', 1) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-before-freeze', 0) ],
	[ 'VACUUM', 'vacuum', fault('write', '*live/*.sst', 2) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-after-freeze', 0) ],
	[ 'VACUUM', 'vacuum', stop('vacuum-after-relfrozenxid', 1) ],
	[ 'truncation', 'empty', stop('row_create_registered', 0) ],
	[ 'truncation', 'empty', stop('row_create_done', 1) ],
	[ 'truncation', 'empty', stop('row_before_push', 120) ],
	[ 'truncation', 'reset', stop('row_reset_registered', 1) ],
	[ 'truncation', 'reset', stop('row_reset_done', 2) ],
	[ 'dropped tables', 'drop', stop('storages-after-look', 1) ],
	[ 'dropped tables', 'drop', stop('storages-before-confirm', 0) ],
	[ 'dropped tables', 'drop', stop('storages-before-drop', 0) ],
	[ 'dropped tables', 'drop', stop('storages-before-forget', 0) ],
	[ 'dropped tables', 'drop', stop('storages-after-forget', 0) ]);

my %kills;

# The table against its twin, its indexes, its files.
sub sound
{
	my ($on, $what) = @_;
	my $ok = pair_is_same($on, $what);
	my $problems = $on->safe_psql('postgres', q{
SELECT bt_index_check('r_pkey', true), bt_index_check('r_w', true);
SELECT problem FROM orbit_verify() WHERE problem IS NOT NULL});
	is($problems, '|', "$what: amcheck and orbit_verify()") and $ok
	  or BAIL_OUT('the next steps would hide the cause');
	return;
}

# Lets the process that comes to the step die, or stand still there until all are killed.
sub arm
{
	my ($step, $all, $skip) = @_;
	if ($step->{point})
	{
		$all ? stop_at($node, $step->{point}) : set_stop($node, $step->{point}, 'kill', $skip);
		return;
	}
	my $action = $all ? 'wait' : $step->{after} ? 'kill-after' : 'kill';
	return set_fault($node, 'worker', $step->{calls}, $step->{files}, $action, $skip);
}

sub await_step
{
	my ($step, $fault) = @_;
	return wait_stopped($node, $step->{point}) if $step->{point};
	$node->poll_query_until('postgres', "SELECT orbit_fault_hits($fault) > 0") or die 'nobody comes to the step';
	return;
}

sub await_death
{
	my ($pid) = @_;
	for (1 .. 50 * $timeout)
	{
		return unless kill 0, $pid;
		sleep 0.02;
	}
	return;
}

sub kill_at
{
	my ($kind, $work, $step, $all, $skip) = @_;
	my $what = sprintf('%s: %s at %s', $kind, $all ? 'all killed' : 'killed',
		$step->{point} // ($step->{after} && !$all ? 'the end of ' : '') . "$step->{calls} of $step->{files}");
	my $old = worker_pid($node);

	sql("CALL churn(1, 600, 100, $salt); SELECT orbit_flush()");
	my $fault = arm($step, $all, $skip);
	$work{$work}->();
	if ($all)
	{
		await_step($step, $fault);
		kill_all_and_start($node);
	}
	else
	{
		await_death($old);
		wait_recovered($node, $old) or die "$what: nobody dies";
	}
	$_->finish for @busy;
	@busy = ();
	$kills{ $kind . ($all ? ', all' : '') }++;
	sound($node, $what);
	return;
}

for my $i (0 .. $#steps)
{
	my ($kind, $work, $step) = @{ $steps[$i] };
	kill_at($kind, $work, $step, ($i + $seed) % 3 == 0, $step->{skip});
}
for (1 .. $ENV{ORBIT_KILLS} // 0)
{
	my ($kind, $work, $step) = @{ $steps[ rand @steps ] };
	kill_at($kind, $work, $step, rand() < 0.3, int(rand(2 + 2 * $step->{skip})));
}
$node->restart;
sound($node, 'after an orderly restart');

# ---- promotion ------------------------------------------------------------------------------------------

$node->stop('fast');
$node->backup_fs_cold('cold');
$node->start;

# What dies, and where.  Who does not die there by itself stands still and is killed.
my @promotions = (
	[ 'startup', 'recovery-before-last-flush', 'kill' ],
	[ 'worker', 'recovery-before-last-flush', 'wait' ],
	[ 'worker', 'flush-before-ingest', 'kill' ],
	[ 'worker', 'flush-after-ingest', 'kill' ],
	[ 'all', 'recovery-after-last-flush', 'wait' ],
	[ 'worker', 'worker-recovery-ended', 'kill' ],
	[ 'all', 'worker-recovery-ended', 'wait' ],
	[ 'worker', 'worker-before-bump', 'kill' ]);

sub die_in_promotion
{
	my ($standby, $who, $point, $how) = @_;
	my $old = worker_pid($standby);
	$how eq 'kill' ? set_stop($standby, $point, 'kill', 0) : stop_at($standby, $point);
	system('pg_ctl', '-D', $standby->data_dir, '-W', '-s', 'promote') == 0 or die 'pg_ctl promote';
	if ($how eq 'wait')
	{
		# once it is promoted queries are answered, before that as well
		wait_stopped($standby, $point);
		if ($who eq 'all')
		{
			kill_all_and_start($standby);
			return;
		}
		kill 'KILL', $old;
	}
	# a startup process that dies takes the server with it
	await_death($old);
	if ($who eq 'startup')
	{
		kill_all_and_start($standby);
		return;
	}
	wait_recovered($standby, $old) or die 'the standby does not come back';
	return;
}

# Half of them, unless more was asked for.
my @some = grep { $ENV{ORBIT_KILLS} || ($_ + $seed) % 2 } 0 .. $#promotions;
my $n = 0;
for (@promotions[@some])
{
	my ($who, $point, $how) = @$_;
	my $what = "promotion: $who killed at $point";
	my $standby = PostgreSQL::Test::Cluster->new('standby' . ++$n);
	$standby->init_from_backup($node, 'cold', has_streaming => 1);
	$standby->start;
	sql("CALL churn(1, 600, 200, $n + 500)");
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	die_in_promotion($standby, $who, $point, $how);
	$standby->promote if ask($standby, 'SELECT pg_is_in_recovery()') eq 't';
	$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'it is not promoted';
	sound($standby, $what);
	$standby->safe_psql('postgres', "CALL churn(1, 600, 200, $n + 600); SELECT orbit_flush(); CALL churn(1, 600, 50, $n + 700)");
	kill_all_and_start($standby);
	sound($standby, "$what: the new primary after a crash");
	$kills{promotion}++;
	$standby->stop('immediate');
	$standby->clean_node;
}
sound($node, 'the primary');
$node->stop('fast');

my $total = 0;
$total += $_ for values %kills;
note(sprintf('seed %d, %d kills: %s', $seed, $total, join('; ', map { "$_: $kills{$_}" } sort keys %kills)));
cmp_ok($total, '>=', @steps + @some, "$total kills");
done_testing();
